//! Network interfaces.

use mote_virtio::rate::RateLimiter;

use super::limit::PerSecond;
use super::{POLL_US, parse_poll};

/// Where an interface's tap comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TapSource {
    /// The name of a TAP interface of the host.
    Name(String),
    /// A descriptor that was passed in.
    Fd(i32),
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// Its name, for messages.
    pub id: String,
    /// Its back-end.
    pub tap: TapSource,
    /// Its MAC address; `None` for [one of its own](Nic::own_mac).
    pub mac: Option<[u8; 6]>,
    /// The MTU to tell the guest, in bytes.
    pub mtu: Option<u16>,
    /// Microseconds that its worker busy-polls for before it sleeps, at most.
    pub poll_us: u16,
    /// Limits of what the guest receives.
    pub rx_limiter: RateLimiter,
    /// Limits of what the guest sends.
    pub tx_limiter: RateLimiter,
}

impl Nic {
    /// A locally administered MAC address that is the same at every start of
    /// the same tap on the same host.
    pub fn own_mac(&self) -> [u8; 6] {
        let host = rustix::system::uname();
        let tap = format!("{:?}", self.tap);
        // FNV-1a: good enough to tell a few machines apart.
        let hash = host.nodename().to_bytes().iter().chain(tap.as_bytes());
        let hash = hash.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
        });
        let [a, b, c, d, e, ..] = hash.to_le_bytes();
        [2, a, b, c, d, e]
    }
}

/// Parses the value of `--net`: `tap=NAME` or `tap-fd=N`, then `,mac=…`,
/// `,mtu=…`, `,poll_us=…`, and `,bw=…` and `,ops=…` as wanted: limits of each
/// direction, or of one with `rx-` or `tx-` before them.
///
/// # Errors
/// The fault as text, without the name of the flag.
pub fn parse_net(text: &str, number: usize) -> Result<Nic, String> {
    let (mut tap, mut mac, mut mtu, mut poll_us) = (None, None, None, None);
    let (mut rx, mut tx) = (PerSecond::default(), PerSecond::default());
    for part in text.split(',') {
        let old = match part.split_once('=') {
            Some(("tap", name)) => tap.replace(TapSource::Name(check_tap(name)?)).is_some(),
            Some(("tap-fd", fd)) => {
                // Below that are standard input, output and error.
                let fd = fd.parse().ok().filter(|fd: &i32| *fd > 2);
                let fd = fd.ok_or_else(|| format!("'{part}': not a descriptor above 2"))?;
                tap.replace(TapSource::Fd(fd)).is_some()
            }
            Some(("mac", text)) => mac.replace(parse_mac(text)?).is_some(),
            Some(("mtu", text)) => {
                let size = text.parse().ok().filter(|mtu| (68..=65521).contains(mtu));
                let size = size.ok_or_else(|| format!("mtu={text}: not 68 to 65521"))?;
                mtu.replace(size).is_some()
            }
            Some(("poll_us", text)) => poll_us.replace(parse_poll(text)?).is_some(),
            Some(("bw", text)) => rx.set_bytes(text)? | tx.set_bytes(text)?,
            Some(("ops", text)) => rx.set_operations(text)? | tx.set_operations(text)?,
            Some(("rx-bw", text)) => rx.set_bytes(text)?,
            Some(("rx-ops", text)) => rx.set_operations(text)?,
            Some(("tx-bw", text)) => tx.set_bytes(text)?,
            Some(("tx-ops", text)) => tx.set_operations(text)?,
            _ => {
                return Err(format!(
                    "'{part}' is not one of tap=, tap-fd=, mac=, mtu=, poll_us=, [rx-|tx-]bw=, [rx-|tx-]ops="
                ));
            }
        };
        if old {
            return Err(format!("{part}: given twice, or a second form of the same option"));
        }
    }
    let tap = tap.ok_or_else(|| "neither tap=NAME nor tap-fd=N".to_owned())?;
    Ok(Nic {
        id: format!("net{number}"),
        tap,
        mac,
        mtu,
        poll_us: poll_us.unwrap_or(POLL_US),
        rx_limiter: rx.limiter(),
        tx_limiter: tx.limiter(),
    })
}

/// Checks an interface's name: it becomes part of a path.
pub(super) fn check_tap(name: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_graphic() && c != '/';
    if name.is_empty() || name.len() > 15 || name.starts_with('.') || !name.chars().all(plain) {
        return Err(format!("'{name}' is not an interface name: 1 to 15 characters"));
    }
    Ok(name.to_owned())
}

/// Parses six hexadecimal bytes with colons between them.
pub(super) fn parse_mac(text: &str) -> Result<[u8; 6], String> {
    let wrong = || format!("'{text}' is not a MAC address such as 02:00:00:00:00:01");
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2);
        *byte = u8::from_str_radix(part.ok_or_else(wrong)?, 16).map_err(|_| wrong())?;
    }
    match (parts.next(), mac.first()) {
        (None, Some(first)) if first & 1 == 0 => Ok(mac),
        (None, _) => Err(format!("'{text}' is a multicast address")),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nets() {
        let nic = parse_net("tap=vm0,mac=02:00:00:00:00:0a,mtu=9000", 1).unwrap();
        assert_eq!(nic.tap, TapSource::Name("vm0".to_owned()));
        assert_eq!((nic.mac, nic.mtu), (Some([2, 0, 0, 0, 0, 10]), Some(9000)));
        let nic = parse_net("tap-fd=7", 0).unwrap();
        assert_eq!(nic.tap, TapSource::Fd(7));
        assert_eq!(nic.own_mac(), nic.own_mac());
        assert_eq!(nic.own_mac()[0], 2);
        for text in [
            "",
            "vm0",
            "tap=",
            "tap=a/b",
            "tap=..",
            "tap=sixteen-letters-",
            "tap-fd=2",
            "tap-fd=x",
            "tap=a,tap=b",
            "tap=a,mac=1",
            "tap=a,mac=01:00:00:00:00:00",
            "tap=a,mtu=67",
            "tap=a,mac=02:00:00:00:00:00:00",
            "tap=a,mac=2:0:0:0:0:0",
            "tap=a,mtu=70000",
            "mtu=1500",
        ] {
            assert!(parse_net(text, 0).is_err(), "{text}");
        }
    }

    #[test]
    fn a_tap_is_one_interface() {
        let nics = |texts: [&str; 2]| texts.map(|text| parse_net(text, 0).unwrap());
        for texts in [["tap-fd=7", "tap-fd=7"], ["tap=a", "tap=a,mtu=1400"]] {
            assert!(super::super::check_devices(&[], &nics(texts)).is_err());
        }
        for texts in [["tap-fd=7", "tap-fd=8"], ["tap=a", "tap=b"]] {
            assert!(super::super::check_devices(&[], &nics(texts)).is_ok());
        }
    }

    #[test]
    fn limits() {
        for (text, rx, tx) in [
            ("tap=a", false, false),
            ("tap=a,bw=1M", true, true),
            ("tap=a,ops=9", true, true),
            ("tap=a,rx-bw=1M", true, false),
            ("tap=a,rx-ops=1", true, false),
            ("tap=a,tx-bw=1M", false, true),
            ("tap=a,tx-ops=1,tx-bw=1G", false, true),
        ] {
            let nic = parse_net(text, 0).unwrap();
            let limiting = (nic.rx_limiter.is_limiting(), nic.tx_limiter.is_limiting());
            assert_eq!(limiting, (rx, tx), "{text}");
        }
        for text in ["bw=0", "ops=x", "bw=1,rx-bw=1", "tx-ops=1,ops=1", "rx=1"] {
            assert!(parse_net(&format!("tap=a,{text}"), 0).is_err(), "{text}");
        }
    }

    #[test]
    fn a_descriptor_is_one_thing_only() {
        let config = |kvm_fd, ready_fd, tap| crate::config::VmConfig {
            kvm_fd,
            ready_fd,
            nics: vec![parse_net(tap, 0).unwrap()],
            ..Default::default()
        };
        let check = |config| crate::config::check_descriptors(&config, None);
        assert_eq!(check(config(Some(3), Some(4), "tap-fd=5")), Ok(()));
        assert_eq!(check(config(None, None, "tap-fd=5")), Ok(()));
        let api = crate::config::check_descriptors(&config(Some(3), None, "tap=a"), Some(3));
        assert!(api.unwrap_err().contains("--api-fd and --kvm-fd"));
        for (config, names) in [
            (config(Some(3), Some(3), "tap-fd=5"), "--kvm-fd and --ready-fd"),
            (config(Some(3), Some(4), "tap-fd=4"), "--ready-fd and tap-fd"),
            (config(Some(3), None, "tap-fd=3"), "--kvm-fd and tap-fd"),
        ] {
            assert!(check(config).unwrap_err().contains(names));
        }
    }
}
