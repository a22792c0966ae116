use super::*;

fn parse_line(line: &str) -> Result<Command, Error> {
    parse(line.split_whitespace().map(OsString::from))
}

#[test]
fn flags_of_firecrackers_jailer_are_taken() {
    let line = "--id a-1 --exec-file /bin/fc --uid 123 --gid 100 --chroot-base-dir /srv/jailer \
                --netns /var/run/netns/n --cgroup-version 2 --cgroup cpuset.mems=0 \
                --cgroup cpu.max=1000 --parent-cgroup all/vms --resource-limit fsize=250000000 \
                --resource-limit no-file=1024 --daemonize --new-pid-ns -- --config /vm.json --id x";
    let Ok(Command::Run(args)) = parse_line(line) else { panic!("{line}") };
    assert_eq!((args.uid, args.gid), (Some(123), Some(100)));
    assert_eq!(args.exec_name, "fc");
    assert_eq!(args.cgroup.len(), 2);
    assert_eq!(args.limits.len(), 2);
    assert_eq!(args.rest, ["--config", "/vm.json", "--id", "x"]);
}

#[test]
fn a_comma_in_a_path_is_written_twice() {
    for (text, path, name) in
        [("d/a,,b", "d/a,b", "a,b"), ("a,,b,as=c,,d", "a,b", "c,d"), ("a,,,rw", "a,", "a,")]
    {
        let file = shared_file(text).unwrap();
        assert_eq!((file.path, file.name.as_str()), (path.into(), name));
    }
}

#[test]
fn mistakes_name_the_flag() {
    for (line, word) in [
        ("", "--id"),
        ("--id a", "--exec-file"),
        ("--id a/b --exec-file x", "--id: 'a/b'"),
        ("--id .. --exec-file x", "--id"),
        ("--id a --id b --exec-file x", "--id is given twice"),
        ("--id a --exec-file ..", "--exec-file"),
        ("--id a --exec-file x --uid 4294967295", "--uid"),
        ("--id a --exec-file x --uid -1", "--uid"),
        ("--id a --exec-file x --uid 0 --gid 1", "--uid: 0 is root"),
        ("--id a --exec-file x --uid 1 --gid 0", "--gid: 0 is root"),
        ("--id a --exec-file x --ready-within 0", "--ready-within"),
        ("--id a --exec-file x --cgroup memory.max", "--cgroup"),
        ("--id a --exec-file x --cgroup ../x.y=1", "--cgroup"),
        ("--id a --exec-file x --cgroup cgroup.procs=1", "--cgroup"),
        ("--id a --exec-file x --cgroup-version 3", "--cgroup-version"),
        ("--id a --exec-file x --parent-cgroup ../up", "--parent-cgroup"),
        ("--id a --exec-file x --parent-cgroup /abs", "--parent-cgroup"),
        ("--id a --exec-file x --resource-limit core=1", "--resource-limit"),
        ("--id a --exec-file x --file k,wo", "--file"),
        ("--id a --exec-file x --file k,as=a/b", "--file"),
        ("--id a --exec-file x --file k --file d/k", "--file"),
        ("--id a --exec-file x --file k --chroot-base-dir d", "--file"),
        ("--id a --exec-file x --tap much-too-long-a-name", "--tap"),
        ("--id a --exec-file x --pass-fd 2", "--pass-fd"),
        ("--id a --exec-file x --kvm maybe", "--kvm"),
        ("--id a --exec-file x --ready-fd x", "--ready-fd"),
        ("--id a --exec-file x --color", "--color"),
        ("--id a --exec-file x run", "'run'"),
    ] {
        let error = parse_line(line).unwrap_err();
        assert!(error.to_string().contains(word), "{line}: {error}");
        assert_eq!(error.exit_code(), crate::error::exit::USAGE);
    }
}
