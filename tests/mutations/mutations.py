"""The lines that hold an agent, each with what stands there without it, and the suites that must notice.

A mutation is (name, file, anchor, replacement, suites), or has a list of (file, anchor, replacement) for its file, where two lines do
the same. The anchor must stand in the file exactly once; `suites` are tried in
order, until one fails. A suite is `launch`, `view`, `lib`, `restricted` of writ-run, or of writ-cli `escapes:NAME,NAME` and
`ladder:NAME`; `proxy` is writ-proxy's own.
"""

STAGE = "crates/writ-run/src/stage/"
VIEW = "crates/writ-run/src/view/"

MUTATIONS = [
    # Namespaces
    ("no PID namespace", STAGE + "outer.rs", "UnshareFlags::NEWNS | UnshareFlags::NEWPID |", "UnshareFlags::NEWNS |", "launch"),
    ("no IPC namespace", STAGE + "outer.rs", "UnshareFlags::NEWPID | UnshareFlags::NEWIPC |", "UnshareFlags::NEWPID |", "launch view escapes:"),
    ("no network namespace", STAGE + "outer.rs", " | UnshareFlags::NEWNET;", ";", "launch"),
    ("no second user namespace", STAGE + "inner.rs", "    ids.enter(Step::SecondNamespace, UnshareFlags::NEWNS)?;\n", "", "launch escapes:"),
    ("the second user namespace without a mount namespace", STAGE + "inner.rs", "ids.enter(Step::SecondNamespace, UnshareFlags::NEWNS)?", "ids.enter(Step::SecondNamespace, UnshareFlags::empty())?", "launch escapes:"),
    ("no cgroup namespace", STAGE + "init.rs", ".and_then(|()| writ_sys::unshare(UnshareFlags::NEWCGROUP))", "", "launch"),
    ("init stays in the caller's control group", STAGE + "init.rs", 'write_all(b"0")', 'write_all(b"")', "launch"),
    ("no control group is made", STAGE + "cgroup.rs", "    sweep(&parent, lives);\n", "    if parent.exists() { return Ok(None); }\n    sweep(&parent, lives);\n", "launch"),
    ("groups of killed launchers stay", STAGE + "cgroup.rs", "    sweep(&parent, lives);\n", "", "launch"),
    ("groups below the run's stay", STAGE + "cgroup.rs", "        remove_below(&entry.path(), deeper, left);\n", "        let _ = (deeper, &left);\n", "launch"),
    # Capabilities and privileges
    ("the first stage keeps its capabilities", STAGE + "outer.rs", '    capabilities::drop_all().map_err(StepFault::at(Step::Capabilities, "after init"))?;\n', "", "launch"),
    ("init keeps its capabilities", STAGE + "init.rs", '    capabilities::drop_all().map_err(StepFault::at(Step::Capabilities, "of init"))?;\n', "", "launch"),
    ("the agent keeps its capabilities", STAGE + "inner.rs", '    capabilities::drop_for_good(kept).map_err(StepFault::at(Step::Capabilities, "of the agent"))?;\n', "    let _ = kept;\n", "launch"),
    ("uid 0 keeps all capabilities", STAGE + "inner.rs", "{ CapabilitySet::SETFCAP } else", "{ CapabilitySet::all() } else", "launch"),
    ("the bounding set stays", STAGE + "capabilities.rs", "        if kept.contains(one) {", "        if kept.contains(one) || number < 64 {", "launch"),
    # Landlock's library sets it as well.
    ("programs gain privileges", [(STAGE + "inner.rs", '    set_no_new_privs(true).map_err(StepFault::at(Step::Capabilities, "no_new_privs"))?;\n', ""), (STAGE + "inner.rs", "    keep_signals()?;\n", "")], "", "", "launch"),
    # Processes and signals
    ("signals leave through a shared group", STAGE + "inner.rs", "    keep_signals()?;\n", "", "launch"),
    ("the namespace's processes are not limited", VIEW + "enter.rs", "    let limited = limit_namespace(proc.as_fd());\n", "    let limited = if OWNED_BY_ROOT.is_empty() { limit_namespace(proc.as_fd()) } else { Ok(()) };\n", "launch escapes:fork_without_end"),
    ("the account's processes are not limited", STAGE + "inner.rs", "    processes::limit_account()?;\n", "", "launch"),
    ("init outlives the first stage's death", STAGE + "init.rs", "    set_parent_process_death_signal(Some(Signal::KILL))\n        .map_err(StepFault::at(Step::Init, \"the parent's death\"))?;\n", "", "launch"),
    ("init does not see that the first stage is gone", STAGE + "init.rs", "        if abandoned {", "        if abandoned && agent.is_init() {", "launch"),
    ("the first stage outlives the launcher's death", "crates/writ-run/src/launch.rs", "writ_sys::die_with_parent(&mut command).spawn()", "command.spawn()", "launch"),
    ("the first stage can be looked into", STAGE + "outer.rs", "    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);\n", "    let _ = DumpableBehavior::NotDumpable;\n    let _ = set_dumpable_behavior;\n", "launch"),
    ("init can be looked into", STAGE + "init.rs", "    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);\n", "    let _ = DumpableBehavior::NotDumpable;\n    let _ = set_dumpable_behavior;\n", "launch"),
    ("the first stage stays in the caller's group", STAGE + "outer.rs", "    let _ = setpgid(None, None);\n", "    let _ = setpgid;\n", "launch"),
    ("init stays in the caller's group", STAGE + "init.rs", "    let _ = setpgid(None, None);\n", "    let _ = setpgid;\n", "launch"),
    # Descriptors and memory
    ("the first stage holds the caller's streams", STAGE + "outer.rs", "    leave_streams(&null);\n", "    let _ = (leave_streams, &null);\n", "launch"),
    ("init holds the caller's streams", STAGE + "init.rs", "    leave_streams(&null);\n", "    let _ = (leave_streams, &null);\n", "launch"),
    ("open descriptors are inherited", STAGE + "inner.rs", "writ_sys::close_on_exec_from(3).and_then(|()| writ_sys::reset_signals(&CHANGED_SIGNALS))", "writ_sys::reset_signals(&CHANGED_SIGNALS)", "launch escapes:read_an_inherited_descriptor"),
    ("stages get the caller's variables", STAGE + "mod.rs", "command.arg0(typed).args([argument, name]).env_clear();", "command.arg0(typed).args([argument, name]);", "launch"),
    ("plans can be changed", STAGE + "mod.rs", "SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE", "SealFlags::SEAL", "lib"),
    # System calls
    ("no filter", STAGE + "inner.rs", '    writ_sys::install_filter(&filter).map_err(StepFault::at(Step::Seccomp, "the filter"))?;\n', "    let _ = filter;\n", "launch"),
    ("other architectures' calls pass", STAGE + "filter.rs", "jump(EQUAL, architecture, 1, 0),", "jump(EQUAL, architecture, 1, 1),", "lib"),
    ("x32's calls pass", STAGE + "filter.rs", "jump(AT_LEAST, X32, 0, 1),", "jump(AT_LEAST, X32, 1, 1),", "lib"),
    ("TIOCSTI passes", STAGE + "filter.rs", "        when(libc::SYS_ioctl, &[Condition::Equal(1, TIOCSTI)], Errno::PERM),\n", "", "lib"),
    ("TIOCLINUX passes", STAGE + "filter.rs", "        when(libc::SYS_ioctl, &[Condition::Equal(1, TIOCLINUX)], Errno::PERM),\n", "", "lib"),
    ("userfaultfd passes", STAGE + "filter.rs", "        always(libc::SYS_userfaultfd, Errno::PERM),\n", "", "lib"),
    ("bpf passes", STAGE + "filter.rs", "        always(libc::SYS_bpf, Errno::PERM),\n", "", "lib"),
    ("vsock passes", STAGE + "filter.rs", "for family in [AF_VSOCK, AF_ALG]", "for family in [AF_ALG]", "lib"),
    ("AF_ALG passes", STAGE + "filter.rs", "for family in [AF_VSOCK, AF_ALG]", "for family in [AF_VSOCK]", "lib"),
    ("keyrings pass", STAGE + "filter.rs", "        libc::SYS_keyctl,\n        libc::SYS_add_key,\n        libc::SYS_request_key,\n", "", "lib"),
    ("io_uring is set up", STAGE + "filter.rs", "        libc::SYS_io_uring_setup,\n", "", "lib"),
    ("io_uring is entered", STAGE + "filter.rs", "        libc::SYS_io_uring_enter,\n", "", "lib"),
    ("io_uring is registered with", STAGE + "filter.rs", "        libc::SYS_io_uring_register,\n", "", "lib"),
    ("openat2 passes", STAGE + "filter.rs", "        libc::SYS_openat2,\n", "", "lib"),
    ("set-id bits pass", STAGE + "filter.rs", "const SET_ID: u32 = 0o6000;", "const SET_ID: u32 = 0;", "lib"),
    ("files are made with set-id bits", STAGE + "filter.rs", "        rules.push(when(*call, &makes, Errno::PERM));\n", "        let _ = (call, makes);\n", "lib"),
    ("temporary files are made with set-id bits", STAGE + "filter.rs", "0o100 | 0o20_000_000", "0o100", "lib"),
    ("file capabilities are set", STAGE + "filter.rs", "    if files_may_empower {", "    if files_may_empower && ATTRIBUTES.is_empty() {", "lib"),
    ("uid 0 has the filter of others", STAGE + "inner.rs", "filter::program(ids.is_root())", "filter::program(false)", "launch escapes:give_a_program_capabilities"),
    # The view: mounts
    ("the host's mounts appear inside", VIEW + "build.rs", "writ_sys::mount_setattr(&host, true, 0, 0, MS_PRIVATE)", "writ_sys::mount_setattr(&host, true, 0, 0, 0 * MS_PRIVATE)", "view"),
    ("system directories are writable", VIEW + "build.rs", "self.bind(at, at, Access::ReadOnly, step)", "self.bind(at, at, Access::Writable, step)", "view"),
    ("nothing is covered", VIEW + "build.rs", "            Content::Cover => self.cover(at, step),", "            Content::Cover => { let _ = Self::cover; Ok(()) }", "view"),
    ("writ's files over the host's are writable", VIEW + "build.rs", "        let copy = mounts::copy(stored.map_err(fault())?.as_fd(), Access::ReadOnly)", "        let copy = mounts::copy(stored.map_err(fault())?.as_fd(), Access::Writable)", "view"),
    ("what covers is writable", VIEW + "build.rs", "        let nothing = mounts::copy(source.map_err(fault())?.as_fd(), Access::ReadOnly)", "        let nothing = mounts::copy(source.map_err(fault())?.as_fd(), Access::Writable)", "view"),
    ("places are made in what is the host's", VIEW + "build.rs", "        if self.foreign.iter().any(|foreign| at.starts_with(foreign)) {", "        if self.foreign.iter().any(|foreign| at.starts_with(foreign) && at.as_os_str().is_empty()) {", "view"),
    ("a layer's links are followed for places in the home", VIEW + "build.rs", "        if self.home.as_ref().is_some_and(|home| at.starts_with(home)) {", "        if self.home.as_ref().is_some_and(|home| at.starts_with(home) && at.as_os_str().is_empty()) {", "view"),
    ("/etc is writable", VIEW + "build.rs", '        mounts::read_only(mounted.as_fd()).map_err(StepFault::at(Step::Etc, "/etc"))?;\n', "", "view"),
    ("what only root may read is in /etc", VIEW + "build.rs", "            layer::leave_out(layer.upper.as_fd(), lower.as_fd(), path).map_err(fault(path))?;\n", "            let _ = path;\n", "view escapes:read_root_secrets"),
    ("two runs share a layer", VIEW + "build.rs", "        std::mem::forget(layer.lock);\n", "        drop(layer.lock);\n", "view"),
    ("the store stays in the view", VIEW + "build.rs", "        unlinkat(&self.base, STORE, AtFlags::REMOVEDIR).map_err(fault())?;\n", "", "view"),
    ("sources are opened through links", VIEW + "mounts.rs", "ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS", "ResolveFlags::IN_ROOT", "view"),
    ("mounts from the host keep set-id bits", VIEW + "mounts.rs", "        Access::Writable => MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV,", "        Access::Writable => MOUNT_ATTR_NODEV,", "view"),
    ("mounts from the host keep devices", VIEW + "mounts.rs", "        Access::Writable => MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV,", "        Access::Writable => MOUNT_ATTR_NOSUID,", "view"),
    ("the host's root stays below", VIEW + "enter.rs", '    unmount(".", UnmountFlags::DETACH).map_err(fault("the host\'s root"))?;\n', "    let _ = (unmount::<&str>, UnmountFlags::DETACH);\n", "view launch"),
    ("the new root and /dev are writable", VIEW + "enter.rs", '    for path in ["/dev", "/"] {', '    for path in [""; 0] {', "view"),
    ("uid 0 writes to /proc/sys", VIEW + "enter.rs", "    if geteuid().is_root() {", "    if geteuid().is_root() && OWNED_BY_ROOT.is_empty() {", "view escapes:write_core_pattern"),
    # The view: the home's layer
    ("credential files shine through", VIEW + "layer.rs", "        leave_out(upper, lower, path).map_err(fault(path))?;\n", "        let _ = path;\n", "view"),
    ("a directory of the agent's shows what is below", VIEW + "layer.rs", "            set_opaque(&open(parent.as_fd(), &name, OFlags::DIRECTORY)?)\n", "            open(parent.as_fd(), &name, OFlags::DIRECTORY).map(drop)\n", "view"),
    ("seeds go through an agent's files", VIEW + "layer.rs", "OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC", "OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC", "view"),
    # What the last review found
    ("a linked tool directory is shown", VIEW + "facts.rs", "wishes.readable.iter().filter_map(|path| lead(path, &places)).collect();", "{ let _ = lead; all_canonical(wishes.readable.iter().map(|path| &path.0)) };", "lib escapes:look_through_a_linked_tool_directory"),
    ("live and wide directories are shown for a tool", VIEW + "worktree.rs", "    !live && !home.starts_with(place) && !SHARED.iter().any(|shared| Path::new(shared) == place)\n", "    let _ = (live, home);\n    true\n", "lib escapes:connect_in_the_shared_tmp"),
    ("the system's programs are a work tree", VIEW + "worktree.rs", '    "/usr/bin",\n', "", "lib"),
    ("a submodule is believed", VIEW + "worktree.rs", "    (fs::canonicalize(git.join(core_worktree(&text)?)).ok()? == root).then_some(whole)\n", "    let _ = core_worktree(&text);\n    Some(whole)\n", "escapes:claim_to_be_a_submodule"),
    ("a linked work tree is believed", VIEW + "worktree.rs", "    (own && shaped).then_some(common)\n", "    let _ = own;\n    shaped.then_some(common)\n", "escapes:claim_to_be_a_linked_work_tree"),
    ("a link to writ's files may be writable", VIEW + "planning.rs", "        if let Some(link) = facts.hidden_links.iter().find(|link| self.in_ground(link)) {", "        if let Some(link) = facts.hidden_links.iter().find(|link| self.in_ground(link) && link.as_os_str().is_empty()) {", "lib"),
    ("what is above writ's files can be renamed", VIEW + "planning.rs", "                if !self.places.iter().any(|known| *known.at == *place) {", "                if place.as_os_str().is_empty() {", "escapes:replace_what_is_above_the_state"),
    # Either of the two is enough at this level.
    ("a linked configuration is writable where it is", [("crates/writ-cli/src/run/launch.rs", ".chain(real).map(Into::into).collect()", ".chain(real.take(0)).map(Into::into).collect()"), (VIEW + "facts.rs", "let (hidden, hidden_links): (Vec<_>, Vec<_>) = ways.map(|way| (way.end, way.links)).unzip();", "let (_, hidden_links): (Vec<PathBuf>, Vec<_>) = ways.map(|way| (way.end, way.links)).unzip();\n        let hidden = wishes.hidden.iter().map(|path| path.0.clone()).collect();")], "", "", "escapes:write_a_linked_configuration"),
    ("sockets in what is only shown connect", VIEW + "scan.rs", "places.iter().chain(shown).any(", "places.iter().chain(shown.iter().take(0)).any(", "escapes:connect_beside_a_tool"),
    ("a cache is opened by an agent's link", VIEW + "facts.rs", "    (!laid || within(&way.end, own)).then_some(way.end)\n", "    let _ = laid;\n    Some(way.end)\n", "escapes:write_through_a_linked_cache"),
    ("what ran out leads down the ladder", "crates/writ-cli/src/run/launch.rs", "                Err(Failed::Step(fault)) if fault.ran_out() => return Err(ran_out(level, &fault)),\n", "                Err(Failed::Step(fault)) if fault.ran_out() && fault.what.is_empty() => return Err(ran_out(level, &fault)),\n", "ladder:"),
    # The proxy: what one session may hold
    ("connections of a session are not limited", "crates/writ-proxy/src/session.rs", "const CONNECTIONS_MAX: usize = 1024;", "const CONNECTIONS_MAX: usize = 1 << 20;", "doors:connections_of_a_session_are_bounded"),
    ("connections that say nothing are not limited", "crates/writ-proxy/src/session.rs", "const UNREAD_MAX: usize = 256;", "const UNREAD_MAX: usize = 1 << 20;", "doors:connections_that_say_nothing_are_bounded"),
    ("names of a session are not limited", "crates/writ-proxy/src/assigned.rs", "        self.names.len() < names && self.letters", "        let _ = names;\n        self.letters", "proxy"),
    # What appears while a run lasts
    ("places of credentials stay open", VIEW + "layer.rs", "    guard::close_all(upper, lower, &home.closed, record)\n        .map_err(StepFault::at(Step::Home, \"places of credentials\"))\n", "    let _ = (guard::close_all, record);\n    Ok(())\n", "view"),
    ("what was closed stays closed", VIEW + "layer.rs", "    guard::open_all(directory.as_fd(), layer.upper.as_fd()).map_err(fault())?;\n", "", "view"),
    ("a cache is opened by an agent's link at the level restricted", "crates/writ-run/src/restricted/facts.rs", "            match cache_at(cache, &grounds, &writable).filter(|place| place.is_dir()) {", "            match fs::canonicalize(&**cache).ok().filter(|place| place.is_dir() && cache_at(cache, &grounds, &writable).is_none_or(|_| true)) {", "lib"),
    ("what is writable is opened by a link", "crates/writ-run/src/restricted/landlock.rs", "{ ResolveFlags::NO_SYMLINKS } else", "{ ResolveFlags::empty() } else", "lib"),
    ("the search for what only root may read stops in silence", VIEW + "planning.rs", "facts.root_only.iter().chain(&facts.unsearched);", "facts.root_only.iter();", "lib"),
    ("letters of names are not limited", "crates/writ-proxy/src/assigned.rs", " && self.letters.saturating_add(host.as_str().len()) <= letters", " && letters < usize::MAX", "proxy"),
]

# Why a line may go unnoticed: another one holds the same, and is noticed.
SECOND_LINES = {
    "init does not see that the first stage is gone": "the kernel kills init with it; this is for when that was asked for too late",
}
