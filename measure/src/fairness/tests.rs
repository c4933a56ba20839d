use std::fs;

use super::*;

fn question() -> Question {
    Question {
        image: "busybox".to_owned(),
        command: vec![],
        ready: "exit".to_owned(),
        runs: 100,
        warmup: 3,
        seed: 1,
        cache: CacheState::Warm,
        parallel: 1,
        density: 0,
        timeout_ms: 1000,
        run_flags: vec![],
        command_line: vec![],
    }
}

/// A host of which there is nothing to say.
fn fair() -> Host {
    Host {
        governor: Some("performance".to_owned()),
        kvm: "hardware".to_owned(),
        cgroup: "v2".to_owned(),
        thp: "madvise".to_owned(),
        ..Host::default()
    }
}

fn ids(host: &Host, question: &Question) -> Vec<String> {
    before(host, question, Involves::Vm).into_iter().map(|finding| finding.id).collect()
}

#[test]
fn a_fair_host_has_no_findings() {
    assert_eq!(ids(&fair(), &question()), [""; 0]);
}

#[test]
fn each_distortion_is_found_alone() {
    let hosts = [
        ("debug-build", Host { debug_build: true, ..fair() }),
        ("other-load", Host { busy: 0.2, ..fair() }),
        ("governor", Host { governor: Some("powersave".to_owned()), ..fair() }),
        ("nested", Host { hypervisor: Some("KVM".to_owned()), ..fair() }),
        ("pvm", Host { kvm: "pvm".to_owned(), ..fair() }),
        ("cgroup-v1", Host { cgroup: "hybrid".to_owned(), ..fair() }),
        ("serial-console", Host { serial_console: Some("ttyS0".to_owned()), ..fair() }),
        ("swap", Host { swap_on: true, swap_used: true, ..fair() }),
        ("swap", Host { swap_on: true, ..fair() }),
        ("huge-pages", Host { thp: "always".to_owned(), ..fair() }),
        ("free-page-reporting", Host { reports_free_pages: true, ..fair() }),
        ("mitigations", Host { mitigations: 4, ..fair() }),
    ];
    for (id, host) in hosts {
        assert_eq!(ids(&host, &question()), [id]);
    }
    let console = vec!["--annotation=io.rkvm.vm.cmdline=console=ttyS0".to_owned()];
    let questions = [
        ("few-runs", Question { runs: 10, ..question() }),
        ("few-runs-p99", Question { runs: 50, ..question() }),
        ("cold-caches", Question { cache: CacheState::Cold, ..question() }),
        ("no-warm-up", Question { warmup: 0, ..question() }),
        ("guest-console", Question { run_flags: console, ..question() }),
    ];
    for (id, question) in questions {
        assert_eq!(ids(&fair(), &question), [id]);
    }
}

#[test]
fn what_only_concerns_a_vm_is_not_said_of_containers() {
    let host = Host { kvm: "pvm".to_owned(), ..fair() };
    assert!(before(&host, &question(), Involves::ContainersOnly).is_empty());
}

#[test]
fn pvm_names_what_makes_its_traps_dear() {
    let pvm = Host { kvm: "pvm".to_owned(), ..fair() };
    let dear = Host { cpuid_faults: true, hypervisor: Some("KVM".to_owned()), ..pvm.clone() };
    let effects = |host: &Host| -> String {
        before(host, &question(), Involves::Vm).into_iter().map(|finding| finding.effect).collect()
    };
    assert!(effects(&dear).contains("CPUID faulting"));
    assert!(!effects(&pvm).contains("CPUID faulting"));
}

#[test]
fn notes_do_not_refuse_but_warnings_do() {
    assert!(!has_warning(&before(&Host { mitigations: 4, ..fair() }, &question(), Involves::Vm)));
    assert!(has_warning(&before(&Host { busy: 0.2, ..fair() }, &question(), Involves::Vm)));
}

#[test]
fn a_host_is_read_from_its_files() {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in [
        ("proc/cpuinfo", "processor : 0\nflags : fpu hypervisor lm\n"),
        ("proc/loadavg", "1.50 0.75 0.25 2/345 6789\n"),
        ("proc/meminfo", "MemTotal: 100 kB\nSwapTotal: 50 kB\nSwapFree: 40 kB\n"),
        ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "schedutil\n"),
        ("sys/devices/system/cpu/vulnerabilities/meltdown", "Mitigation: PTI\n"),
        ("sys/devices/system/cpu/vulnerabilities/mds", "Not affected\n"),
        ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
        ("sys/class/dmi/id/sys_vendor", "QEMU\n"),
        ("sys/bus/virtio/drivers/virtio_balloon/virtio3/features", "0110010100000000\n"),
    ] {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let host = Host::read(root.path(), "none", "v2");
    let wanted = Host {
        debug_build: cfg!(debug_assertions),
        load: [1.5, 0.75, 0.25],
        governor: Some("schedutil".to_owned()),
        hypervisor: Some("QEMU".to_owned()),
        kvm: "none".to_owned(),
        reports_free_pages: true,
        cgroup: "v2".to_owned(),
        swap_on: true,
        swap_used: true,
        thp: "madvise".to_owned(),
        mitigations: 1,
        ..Host::default()
    };
    assert_eq!(host, wanted);
}
