//! Config files, good and bad.

use super::*;

/// A MiB count whose bytes wrap to 0 (Firecracker #6076), and its
/// neighbours.
#[test]
fn mebibytes_do_not_wrap() {
    for mib in [0u64, 1 << 44, (1 << 44) + 128, u64::MAX] {
        let text = format!(r#"{{"machine-config":{{"vcpu_count":1,"mem_size_mib":{mib}}}}}"#);
        let (path, _) = parse(text.as_bytes()).unwrap_err();
        assert_eq!(path, "machine-config.mem_size_mib", "{mib}");
    }
}

#[test]
fn bad_files_name_the_key() {
    for (text, path, word) in [
        (r#"{"boot-source":{"kernel":"x"}}"#, "boot-source.kernel", "unknown field"),
        (r#"{"vsock":{}}"#, "vsock", "no such device"),
        (r#"{"watchdog":{}}"#, "watchdog", "unknown field"),
        (
            r#"{"machine-config":{"vcpu_count":"1","mem_size_mib":128}}"#,
            "machine-config.vcpu_count",
            "invalid type",
        ),
        (
            r#"{"machine-config":{"vcpu_count":1,"vcpu_count":1,"mem_size_mib":128}}"#,
            "machine-config",
            "duplicate field",
        ),
        (
            r#"{"machine-config":{"vcpu_count":33,"mem_size_mib":128}}"#,
            "machine-config.vcpu_count",
            "1 to 32",
        ),
        (r#"{} x"#, "", "trailing"),
        ("", "", "is empty"),
    ] {
        let (at, why) = parse(text.as_bytes()).unwrap_err();
        assert!(at.starts_with(path), "{text}: {at}");
        assert!(why.contains(word), "{text}: {why}");
    }
}

#[test]
fn drives_of_a_file() {
    let config = parse(
        br#"{"boot-source":{"boot_args":"quiet"},"drives":[
             {"drive_id":"cd","path_on_host":"c.iso","media":"cdrom"},
             {"drive_id":"root","path_on_host":"r.img","is_root_device":true}]}"#,
    )
    .unwrap();
    assert_eq!(config.cmdline.as_deref(), Some("quiet root=/dev/vda rw"));
    assert!(!config.cmdline_devices, "the firmware's kernel is not given");
    assert_eq!(config.drives[0].id, "root");
    assert!(config.drives[1].read_only && config.drives[1].media == Media::CdRom);
    for (text, path) in [
        (r#"{"drives":[{"drive_id":"a b","path_on_host":"x"}]}"#, "drives[0].drive_id"),
        (r#"{"drives":[{"drive_id":"a","path_on_host":"x","media":"tape"}]}"#, "drives[0].media"),
        (r#"{"drives":[{"drive_id":"a"}]}"#, "drives[0].path_on_host"),
        (r#"{"drives":[{"drive_id":"a","path_on_host":"x","speed":1}]}"#, "drives[0].speed"),
    ] {
        let (at, why) = parse(text.as_bytes()).unwrap_err();
        assert!(at.starts_with(path), "{text}: {at}: {why}");
    }
}

#[test]
fn a_whole_file() {
    let config = parse(
        br#"{"boot-source":{"kernel_image_path":"k","boot_args":"quiet","initrd_path":"i"},
             "machine-config":{"vcpu_count":2,"mem_size_mib":256}}"#,
    )
    .unwrap();
    assert_eq!(config.kernel, Some("k".into()));
    assert_eq!(config.initrd, Some("i".into()));
    assert_eq!(config.cmdline.as_deref(), Some("quiet"));
    assert!(config.cmdline_devices);
    assert_eq!((config.cpus, config.memory), (2, 256 << 20));
}

/// A drive and an interface with every key of Firecracker's that Mote takes.
#[test]
fn firecrackers_devices() {
    let limit = r#"{"bandwidth":{"size":1000,"one_time_burst":5,"refill_time":100},
                    "ops":{"size":10,"one_time_burst":null,"refill_time":100}}"#;
    let text = format!(
        r#"{{"drives":[{{"drive_id":"d","path_on_host":"x","is_root_device":false,
            "is_read_only":false,"partuuid":null,"cache_type":"Unsafe","io_engine":"Async",
            "rate_limiter":{limit},"socket":null}},
           {{"drive_id":"e","path_on_host":"y","cache_type":"Writeback","io_engine":"Sync",
            "rate_limiter":null,"on_enospc":"error"}}],
           "network-interfaces":[{{"iface_id":"n","host_dev_name":"vm0",
            "guest_mac":"02:00:00:00:00:01","rx_rate_limiter":{limit},
            "tx_rate_limiter":null}}]}}"#
    );
    let config = parse(text.as_bytes()).unwrap();
    let [first, second] = &config.drives[..] else { panic!("{config:?}") };
    assert!(first.limiter.is_limiting() && !second.limiter.is_limiting());
    assert_eq!(first.on_no_space, OnNoSpace::Pause);
    assert_eq!(second.on_no_space, OnNoSpace::Error);
    let nic = &config.nics[0];
    assert!(nic.rx_limiter.is_limiting() && !nic.tx_limiter.is_limiting());
    assert_eq!(nic.mac, Some([2, 0, 0, 0, 0, 1]));
}

#[test]
fn what_a_device_cannot_have_is_named() {
    let drive =
        |key: &str| format!(r#"{{"drives":[{{"drive_id":"a","path_on_host":"x",{key}}}]}}"#);
    let nic = |key: &str| {
        format!(r#"{{"network-interfaces":[{{"iface_id":"a","host_dev_name":"b",{key}}}]}}"#)
    };
    for (text, path, word) in [
        (drive(r#""partuuid":"0eaa91a0-01""#), "drives[0].partuuid", "PARTUUID="),
        (drive(r#""socket":"/run/x""#), "drives[0].socket", "vhost-user"),
        (drive(r#""cache_type":"None""#), "drives[0].cache_type", "Unsafe"),
        (drive(r#""io_engine":"Uring""#), "drives[0].io_engine", "Sync"),
        (drive(r#""on_enospc":"stop""#), "drives[0].on_enospc", "pause"),
        (drive(r#""cdrom_hint":false"#), "drives[0].cdrom_hint", "cdrom"),
        (
            drive(r#""rate_limiter":{"bandwidth":{"size":-1,"refill_time":1}}"#),
            "drives[0].rate_limiter.bandwidth.size",
            "invalid value",
        ),
        (
            drive(r#""rate_limiter":{"ops":{"size":1}}"#),
            "drives[0].rate_limiter.ops",
            "refill_time",
        ),
        (drive(r#""rate_limiter":{"bytes":{}}"#), "drives[0].rate_limiter.bytes", "unknown field"),
        (
            nic(r#""tx_rate_limiter":{"ops":{"size":1,"refill_time":1,"burst":1}}"#),
            "network-interfaces[0].tx_rate_limiter.ops.burst",
            "unknown field",
        ),
        (nic(r#""mtu":67"#), "network-interfaces[0].mtu", "68"),
        (nic(r#""guest_mac":"01:00:00:00:00:00""#), "network-interfaces[0].guest_mac", "multicast"),
    ] {
        let (at, why) = parse(text.as_bytes()).unwrap_err();
        assert_eq!(at, path, "{text}: {why}");
        assert!(why.contains(word), "{text}: {why}");
    }
}
