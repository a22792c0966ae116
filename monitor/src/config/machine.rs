//! Memory and processors.

/// The most vCPUs a VM may have.
pub const MAX_CPUS: u8 = 32;
/// The least memory a VM may have, in bytes: room for boot data and a kernel.
pub const MIN_MEMORY: u64 = 4 << 20;

/// Parses a size: plain bytes, or a number with `K`, `M`, `G` or `T` (powers
/// of 1024, an optional `B` or `iB` behind them).
///
/// # Errors
/// The fault as text, without the name of the flag.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let wrong = || format!("'{text}' is not a size; write 128M, 1G or plain bytes");
    let shift = match unit.to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KB" | "KIB" => 10,
        "M" | "MB" | "MIB" => 20,
        "G" | "GB" | "GIB" => 30,
        "T" | "TB" | "TIB" => 40,
        _ => return Err(wrong()),
    };
    if number.is_empty() {
        return Err(wrong());
    }
    number
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(1 << shift))
        .ok_or_else(|| format!("'{text}' is too large"))
}

/// Checks a memory size in bytes.
///
/// # Errors
/// The fault as text, without the name of the flag.
pub fn check_memory(bytes: u64) -> Result<u64, String> {
    if bytes < MIN_MEMORY {
        return Err(format!("{bytes} bytes are too few; a guest needs at least 4M"));
    }
    if !bytes.is_multiple_of(4096) {
        return Err(format!("{bytes} bytes are not a multiple of 4K"));
    }
    let info = rustix::system::sysinfo();
    let unit = u64::from(info.mem_unit.max(1));
    let host = info.totalram.saturating_add(info.totalswap).saturating_mul(unit);
    if bytes > host {
        return Err(format!("{}M are more than the host has ({}M)", bytes >> 20, host >> 20));
    }
    Ok(bytes)
}

/// Checks a number of vCPUs.
///
/// # Errors
/// The fault as text, without the name of the flag.
pub fn check_cpus(cpus: u64) -> Result<u8, String> {
    u8::try_from(cpus)
        .ok()
        .filter(|n| (1..=MAX_CPUS).contains(n))
        .ok_or_else(|| format!("{cpus} vCPUs; a VM has 1 to {MAX_CPUS}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("1", 1),
            ("4096", 4096),
            ("128M", 128 << 20),
            ("128m", 128 << 20),
            ("1G", 1 << 30),
            ("2GiB", 2 << 30),
            ("3kb", 3 << 10),
            ("1T", 1 << 40),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in
            ["", "M", "1X", "-1", "1.5G", "0x10", " 1M", "16777216T", "99999999999999999999"]
        {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn memory_bounds() {
        for bytes in [0, 1, MIN_MEMORY - 4096, MIN_MEMORY + 1, 1 << 50, u64::MAX] {
            assert!(check_memory(bytes).is_err(), "{bytes}");
        }
        assert_eq!(check_memory(MIN_MEMORY), Ok(MIN_MEMORY));
    }
}
