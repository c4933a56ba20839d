//! The engine's bridge as what is on it sees it: the same link, gateway, names and neighbours in both isolations, and across.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::UdpSocket;

use rkvm_testing::{Isolation, Output, Sandbox, binary, has_vms, in_both_isolations, wait};

in_both_isolations! {
    the_link_is_the_same,
    names_are_asked_of_the_server_that_was_given,
    each_reaches_the_gateway_itself_and_nobody_without_a_network,
}

/// `rkvm run` with an isolation that need not be the sandbox's.
fn run(sandbox: &Sandbox, isolation: &str, flags: &[&str], command: &[&str]) -> Output {
    // So that the sandbox knows what is its own.
    sandbox.leaks();
    sandbox
        .command(binary("rkvm"))
        .env("RKVM_ROOT", sandbox.root())
        .args(["run", "--isolation", isolation])
        .args(flags)
        .arg("busybox")
        .args(command)
        .ok()
}

fn address(sandbox: &Sandbox, name: &str) -> String {
    sandbox.rkvm(["inspect", "--format", "{{.NetworkSettings.IPAddress}}", name]).ok().text()
}

fn the_link_is_the_same(isolation: Isolation) {
    let sandbox = Sandbox::of(isolation);
    sandbox.load_busybox();
    let script = "ls /sys/class/net | tr '\\n' ' '; cat /sys/class/net/eth0/mtu /sys/class/net/eth0/address; \
                  ip -4 -o addr show dev eth0; ip route; cat /etc/hosts";
    let create = ["create", "--name", "box", "--hostname", "inside", "--add-host", "else:192.0.2.7"];
    sandbox.rkvm(create).args(["busybox", "sh", "-c", script]).ok();
    let said = sandbox.rkvm(["start", "-a", "box"]).ok().text();
    let shown = |field: &str| {
        let format = format!("{{{{.NetworkSettings.{field}}}}}");
        sandbox.rkvm(["inspect", "--format", &format, "box"]).ok().text()
    };
    let lines: Vec<&str> = said.lines().collect();
    // Another kernel has a link more or less of its own; these are all that are up.
    assert!(lines[0].contains("eth0 ") && lines[0].contains("lo "), "{said}");
    assert_eq!(lines[0].split("lo ").nth(1).unwrap(), "1500", "{said}");
    assert!(lines[1].len() == 17 && lines[1] != "00:00:00:00:00:00", "{said}");
    let (address, _) = lines[2].split("inet ").nth(1).unwrap().split_once('/').unwrap();
    assert!(lines[3].starts_with("default via ") && lines[3].trim_end().ends_with("dev eth0"), "{said}");
    assert!(lines.iter().any(|line| line.split_whitespace().eq([address, "inside"])), "{said}");
    assert!(lines.iter().any(|line| line.split_whitespace().eq(["192.0.2.7", "else"])), "{said}");
    // A container that has ended has no address any more.
    assert_eq!(shown("IPAddress"), "");
    sandbox.rkvm(["rm", "box"]).ok();
}

/// Answers each question for the address of `some.name` with 192.0.2.9, and any other with "no such name" (RFC 1035, 4.1).
fn answer_names(socket: &UdpSocket) {
    let mut question = [0; 512];
    while let Ok((length, asker)) = socket.recv_from(&mut question) {
        let body = &question[12..length];
        let known = body.starts_with(b"\x04some\x04name\0\0\x01");
        let flags: [u8; 2] = if known { [0x81, 0x80] } else { [0x81, 0x83] };
        let mut answer = question[..2].to_vec();
        answer.extend(flags);
        answer.extend([0, 1, 0, u8::from(known), 0, 0, 0, 0]);
        let name_bytes = body.iter().position(|byte| *byte == 0).unwrap() + 1;
        answer.extend(&body[..name_bytes + 4]);
        if known {
            // The name of the question, A, IN, a minute, four bytes.
            answer.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 9]);
        }
        let _ = socket.send_to(&answer, asker);
    }
}

fn names_are_asked_of_the_server_that_was_given(isolation: Isolation) {
    let sandbox = Sandbox::of(isolation);
    sandbox.load_busybox();
    // The bridge is there with the first of its containers.
    sandbox.rkvm(["run", "-d", "--name", "first", "busybox", "sleep", "1000"]).ok();
    let server = sandbox.rkvm(["inspect", "--format", "{{.NetworkSettings.Gateway}}", "first"]).ok().text();
    let socket = UdpSocket::bind((server.as_str(), 53)).unwrap();
    std::thread::spawn(move || answer_names(&socket));
    let flags = [
        "run",
        "-d",
        "--name",
        "asks",
        "--dns",
        &server,
        "--dns-search",
        "name",
        "--dns-option",
        "timeout:1",
    ];
    sandbox.rkvm(flags).args(["busybox", "sleep", "1000"]).ok();
    let exec = |script: &str| sandbox.rkvm(["exec", "asks", "sh", "-c", script]).run();
    let config = exec("cat /etc/resolv.conf").text();
    for line in [&format!("nameserver {server}"), "search name", "options timeout:1"] {
        assert!(config.lines().any(|there| there == line), "{config}");
    }
    wait::until("the answer", || {
        let said = exec("nslookup -type=a some.name");
        (said.code == 0 && said.text().contains("192.0.2.9")).then_some(())
    });
    assert_ne!(exec("nslookup -type=a no.such.name").code, 0);
    sandbox.rkvm(["rm", "-f", "asks", "first"]).ok();
}

fn each_reaches_the_gateway_itself_and_nobody_without_a_network(isolation: Isolation) {
    let sandbox = Sandbox::of(isolation);
    sandbox.load_busybox();
    let script = "gateway=$(ip route | sed -n 's/default via \\([^ ]*\\).*/\\1/p'); own=$(hostname -i | cut -d' ' -f1); \
                  for to in $gateway $own 127.0.0.1; do ping -c 1 -W 5 $to; done; ping -6 -c 1 ::1";
    let said = sandbox.rkvm(["run", "--rm", "busybox", "sh", "-c", script]).ok();
    assert_eq!(said.stdout().matches("1 packets received").count(), 4, "{said}");
    let script = "ip route; ip -o addr show | grep -v ' lo '; ping -c 1 -W 1 192.0.2.1 > /dev/null";
    let said = sandbox.rkvm(["run", "--rm", "--network", "none", "busybox", "sh", "-c", script]).run();
    assert_ne!(said.code, 0);
    assert_eq!(said.text(), "", "{said}");
}

#[test]
fn container_and_machine_are_neighbours() {
    if !has_vms() {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.load_busybox();
    let server = "mkdir /srv; hostname > /srv/index.html; exec httpd -f -h /srv";
    let names = ["container", "vm"];
    for name in names {
        run(&sandbox, name, &["-d", "--name", name, "--hostname", name], &["sh", "-c", server]);
    }
    for (from, to) in [("container", "vm"), ("vm", "container")] {
        let to_address = address(&sandbox, to);
        let exec = |script: &str| sandbox.rkvm(["exec", from, "sh", "-c", script]).run();
        let said = exec(&format!("ping -c 2 -W 5 {to_address}")).expect_code(0);
        assert!(said.stdout().contains("2 packets received"), "{said}");
        // The most that fits into a frame, whole: neither side may think that the other takes more, or less.
        exec(&format!("ping -c 1 -W 5 -s 1472 {to_address}")).expect_code(0);
        let page = wait::until("the page", || {
            let page = exec(&format!("wget -qO- http://{to_address}/"));
            (page.code == 0).then(|| page.text())
        });
        assert_eq!(page, to);
        // Each knows the other by its own hardware address, not by the host's.
        let seen = exec(&format!("ip neigh show {to_address}")).text();
        let own = sandbox.rkvm(["exec", to, "cat", "/sys/class/net/eth0/address"]).ok().text();
        assert!(seen.contains(&own), "{seen} is not {own}");
    }
    sandbox.rkvm(["rm", "-f", "container", "vm"]).ok();
}
