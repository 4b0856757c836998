//! What it uses up, and what one agent left for the next.

use super::{Attack, Evidence, VIEW, after, as_root, says, shows};
use crate::scene::Scene;

pub const ATTACKS: &[Attack] = &[
    says(
        "fork_without_end",
        "starts 6000 processes at once, which is bounded so that the test's machine survives",
        "a limit of 4096 processes for each run",
        r#"
parent = os.getpid()
for number in range(6000):
    if os.fork() == 0:
        libc.prctl(1, 9, 0, 0, 0)
        if os.getppid() == parent: signal.pause()
        os._exit(0)
got()
"#,
    ),
    Attack {
        evidence: Evidence::Meanwhile(Scene::others_want),
        descriptors: Some(2048),
        ..says(
            "use_up_the_daemons_connections",
            "opens thousands of connections to whatever of the daemon's it reaches, and keeps them",
            "no socket of the broker's in the view; each session has a number of connections of its own",
            r##"
import resource, select
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
filled, fills = os.pipe()
first = os.fork() > 0
if not first: libc.prctl(1, 9, 0, 0, 0)
doors = [("unix", A["writ_home"] + "/run/control.sock"), ("unix", A["writ_home"] + "/run/run.sock")]
if not os.path.exists(A["writ_home"] + "/run"):
    for line in open("/proc/net/tcp"):
        address, state = line.split()[1:4:2]
        if state == "0A":
            host, port = address.split(":")
            host = "1.2.3.4" if host == "00000000" else socket.inet_ntoa(bytes.fromhex(host)[::-1])
            doors.append(("tcp", (host, int(port, 16))))
held = {}
def fill(wanted):
    for _ in range(wanted):
        for kind, address in doors:
            if len(held) > most - 64: return
            s = socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET)
            s.setblocking(False)
            try: s.connect(address)
            except BlockingIOError: pass
            except OSError:
                s.close()
                continue
            held[s.fileno()] = s
fill(1500)
if first:
    os.read(filled, 1)
    print("HOLDING", len(held), flush=True)
else: os.write(fills, b".")
poll = select.poll()
poll.register(0)
for fd in held: poll.register(fd, select.POLLHUP)
done = False
while not done:
    again = 0
    for fd, event in poll.poll():
        if fd == 0: done = True
        elif fd in held:
            poll.unregister(fd)
            held.pop(fd).close()
            again += 1
    if again and not done:
        before = set(held)
        fill(again)
        for fd in set(held) - before: poll.register(fd, select.POLLHUP)
if not first: os._exit(0)
"##,
        )
    },
    shows(
        "leave_a_program_for_the_next_login",
        "writes units of systemd, autostart entries, start-up files of shells and of ssh into the home",
        "the home is a layer",
        |scene| LOGIN_FILES.iter().any(|name| scene.host_file(&format!("home/{name}")).contains("changed")),
        r##"
for name in A["login_files"]:
    try:
        os.makedirs(os.path.dirname(A["home"] + "/" + name), exist_ok=True)
        open(A["home"] + "/" + name, "a").write("# changed\n")
    except OSError: pass
"##,
    ),
    as_root(shows(
        "leave_a_job_for_cron_and_at",
        "writes job files into the spools of cron and at",
        VIEW,
        |scene| {
            let written = SPOOLS.iter().map(|spool| format!("{spool}/{}", scene.marker()));
            written.filter(|file| std::fs::remove_file(file).is_ok()).count() > 0
        },
        r##"
for spool in A["spools"]:
    try:
        os.makedirs(spool, exist_ok=True)
        open(spool + "/" + A["marker"], "w").write("# changed\n")
    except OSError: pass
"##,
    )),
    after(
        says(
            "look_through_a_linked_tool_directory",
            "reads through a directory of PATH in the work tree, .venv/bin, in whose place a link to elsewhere was left",
            "no link of the agent's own is followed for a tool",
            r#"
canary(read(A["work"] + "/.venv/bin/letter"))
canary(read(A["dir"] + "/elsewhere/letter"))
"#,
        ),
        |account| {
            account.file("elsewhere/letter", &account.key());
            account.directory("work/.venv");
            account.link("work/.venv/bin", "elsewhere");
        },
    ),
    after(
        says(
            "connect_beside_a_tool",
            "connects to a socket that lies beside a tool, in a directory of PATH",
            "sockets in what is shown are covered",
            r#"
s = socket.socket(socket.AF_UNIX)
s.connect(A["dir"] + "/tools/service.sock")
got()
"#,
        ),
        |account| {
            account.directory("tools");
            account.listen("tools/service.sock");
        },
    ),
    after(
        says(
            "connect_in_the_shared_tmp",
            "connects to a socket in /tmp, as those of tmux are, where PATH names /tmp itself",
            "/tmp is fresh, and no tool's directory",
            r#"
s = socket.socket(socket.AF_UNIX)
s.connect(A["dir"] + "/window.sock")
got()
"#,
        ),
        |account| account.listen("window.sock"),
    ),
    after(
        shows(
            "write_through_a_linked_cache",
            "writes where a cache was that is a link by now",
            "no cache is opened by a link of the agent's own",
            |scene| !scene.host_file("elsewhere/planted").is_empty(),
            r#"
for place in (A["work"] + "/cache", A["dir"] + "/elsewhere"):
    try: open(place + "/planted", "w").write("x")
    except OSError: pass
"#,
        ),
        |account| {
            account.directory("elsewhere");
            account.link("work/cache", "elsewhere");
        },
    ),
    Attack {
        starts_in: "work/own",
        ..after(
            shows(
                "claim_to_be_a_submodule",
                "writes into the repository around its own, whose submodule it says it is",
                "a submodule is believed if its repository says so",
                |scene| scene.host_file("work/readme").contains("changed"),
                r##"
open(A["work"] + "/readme", "a").write("# changed\n")
"##,
            ),
            |account| {
                account.file("work/own/.git", "gitdir: ../.git/modules/part\n");
                account.file("work/.git/HEAD", "ref: refs/heads/main\n");
                let part = "[core]\n\tworktree = ../../../part\n";
                account.file("work/.git/modules/part/config", part);
                account.directory("work/part");
            },
        )
    },
    Attack {
        starts_in: "work/tree",
        ..after(
            shows(
                "claim_to_be_a_linked_work_tree",
                "writes into a repository whose linked work tree it says it is",
                "a linked work tree is believed if its repository says so",
                |scene| scene.host_file("elsewhere/HEAD").contains("changed"),
                r##"
open(A["dir"] + "/elsewhere/HEAD", "a").write("# changed\n")
"##,
            ),
            |account| {
                account.file("elsewhere/HEAD", "ref: refs/heads/main\n");
                account.directory("elsewhere/objects");
                account.directory("elsewhere/refs");
                account.file("work/tree/.git", "gitdir: fake/worktrees/t\n");
                account.file("work/tree/fake/worktrees/t/commondir", "../../../../../elsewhere\n");
                let tree = account.path("work/tree/.git").display().to_string();
                account.file("work/tree/fake/worktrees/t/gitdir", &format!("{tree}\n"));
            },
        )
    },
    after(
        shows(
            "write_a_linked_configuration",
            "appends to writ.toml where that is a link into the work tree, as dotfiles are",
            "the configuration's real place is hidden as well",
            |scene| scene.host_file("work/dotfiles/writ.toml").contains("changed"),
            r##"
open(A["work"] + "/dotfiles/writ.toml", "a").write("# changed\n")
"##,
        ),
        |account| {
            account.directory("work/dotfiles");
            let (named, real) = (account.path("writ/writ.toml"), account.path("work/dotfiles/writ.toml"));
            std::fs::rename(named, real).unwrap();
            account.link("writ/writ.toml", "work/dotfiles/writ.toml");
        },
    ),
    Attack {
        writ_home: "work/deep/writ",
        ..shows(
            "replace_what_is_above_the_state",
            "renames a directory above writ's own, in the work tree, and puts one of its own in its place",
            "what is above writ's files is mounted, so it stays",
            |scene| scene.host_file("work/deep/writ/writ.toml").contains("changed"),
            r##"
os.rename(A["work"] + "/deep", A["work"] + "/gone")
os.makedirs(A["work"] + "/deep/writ")
open(A["work"] + "/deep/writ/writ.toml", "w").write("# changed\n")
"##,
        )
    },
];

/// What a login, a desktop or a manager of services reads, below the home.
pub const LOGIN_FILES: &[&str] = &[
    ".config/systemd/user/evil.service",
    ".config/systemd/user/default.target.wants/evil.service",
    ".local/share/systemd/user/evil.service",
    ".config/autostart/evil.desktop",
    ".config/environment.d/evil.conf",
    ".config/fish/config.fish",
    ".profile",
    ".bash_profile",
    ".bash_login",
    ".bash_logout",
    ".zshenv",
    ".zshrc",
    ".zprofile",
    ".xprofile",
    ".pam_environment",
    ".ssh/rc",
    ".ssh/authorized_keys",
];

/// Where cron and at look for jobs, on one system or another.
pub const SPOOLS: &[&str] = &[
    "/var/spool/cron",
    "/var/spool/cron/crontabs",
    "/var/spool/cron/atjobs",
    "/var/spool/at",
    "/etc/cron.d",
];
