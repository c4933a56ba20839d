use super::*;
use oci_spec::runtime::LinuxResources;

use crate::record::Limits;

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn later_variables_win_in_place_and_bare_names_remove() {
    let mut env = strings(&["A=1", "B=2", "C=3"]);
    merge_env(&mut env, &strings(&["B=x=y", "A", "D="]));
    assert_eq!(env, ["B=x=y", "C=3", "D="]);
}

#[test]
fn capabilities_are_added_and_dropped_as_docker_does() {
    let names = |add: &[&str], drop: &[&str], privileged: bool| {
        let security =
            Security { cap_add: strings(add), cap_drop: strings(drop), privileged, ..Security::default() };
        capabilities::names(&security, true)
    };
    assert_eq!(names(&[], &[], false), default_capabilities());
    assert_eq!(names(&["CAP_SYS_TIME"], &["ALL"], false), ["CAP_SYS_TIME"]);
    let all = names(&["ALL"], &["CAP_NET_RAW"], false);
    assert!(all.contains(&"CAP_SYS_ADMIN".to_owned()) && !all.contains(&"CAP_NET_RAW".to_owned()));
    assert!(names(&[], &[], true).len() > 35);
    assert_eq!(parse_capability("net_admin").unwrap(), "CAP_NET_ADMIN");
    assert!(parse_capability("EVERYTHING").is_err());
    let user = capabilities::sets(&strings(&["CAP_CHOWN"]), false);
    assert!(user.effective().as_ref().unwrap().is_empty() && user.bounding().as_ref().unwrap().len() == 1);
}

#[test]
fn cpus_become_a_quota_and_swap_defaults_to_memory() {
    let limits = Limits { nano_cpus: Some(1_500_000_000), memory: Some(64 << 20), ..Limits::default() };
    let made = resources(&limits);
    let cpu = made.cpu().clone().unwrap();
    assert_eq!((cpu.period(), cpu.quota()), (Some(100_000), Some(150_000)));
    assert_eq!(made.memory().unwrap().swap(), Some(128 << 20));
    assert_eq!(resources(&Limits::default()), LinuxResources::default());
}

#[test]
fn device_rules_have_dockers_form() {
    let rule = parse_device_rule("c 10:* rw").unwrap();
    assert_eq!((rule.major(), rule.minor(), rule.access().as_deref()), (Some(10), None, Some("rw")));
    for text in ["", "c 10 rw", "x 1:1 r", "c 1:1", "c 1:1 x", "c 1:1 r more"] {
        assert!(parse_device_rule(text).is_err(), "{text:?}");
    }
}
