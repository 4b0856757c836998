//! The small files of `/etc` that are different inside: how names are resolved, and the machine's own name.

/// The responder of the session (research: confinement §2). No `search`: short names are asked as they are.
pub(super) const RESOLV_CONF: &str = "nameserver 127.0.0.53\noptions timeout:2 attempts:2\n";

/// The host's `nsswitch.conf`, where names of machines come from files and DNS only: `resolve`, `mdns4_minimal` and `mymachines` ask
/// services that are not in the view.
pub(super) fn nsswitch(host: &str) -> String {
    let others = host.lines().filter(|line| !line.trim_start().starts_with("hosts:"));
    let mut out: String = others.flat_map(|line| [line, "\n"]).collect();
    out.push_str("hosts: files dns\n");
    out
}

/// Only the loopback and the machine itself, with both families: with IPv4 alone, its name would be asked of the responder for IPv6. The
/// host's other entries would lead past the responder to addresses that nobody serves.
pub(super) fn hosts(machine: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let mut out = String::from("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n");
    if !machine.is_empty() && machine != "localhost" && machine.bytes().all(plain) {
        out.push_str(&format!("127.0.1.1 {machine}\n::1 {machine}\n"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_hosts_line_changes() {
        let host =
            "passwd: files sss\n  hosts: files mdns4_minimal [NOTFOUND=return] resolve\nnetworks: files\n";
        assert_eq!(nsswitch(host), "passwd: files sss\nnetworks: files\nhosts: files dns\n");
        assert_eq!(nsswitch(""), "hosts: files dns\n");
    }

    #[test]
    fn the_machine_has_both_families_and_cannot_write_lines() {
        assert!(hosts("box").ends_with("127.0.1.1 box\n::1 box\n"));
        assert_eq!(hosts("a\n10.0.0.1 evil"), hosts("localhost"));
    }
}
