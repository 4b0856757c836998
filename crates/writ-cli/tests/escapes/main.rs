//! Every way out that a hostile agent has been seen to try on one machine.
//!
//! An attack is a script. It counts only if the same script **succeeds with confinement off** and is held with it on, as an ordinary
//! user and as uid 0. A machine without namespaces fails here; nothing is skipped. The table in `docs/escapes.md` is
//! written from the table of this suite.

#![expect(clippy::unwrap_used, reason = "clippy does not see that the helpers here are tests")]

mod account;
mod attacks;
mod scene;

use std::fmt::Write as _;

use expect_test::expect_file;

use account::Who;
use attacks::{Attack, Evidence, Runs};
use scene::{Level, Scene};

/// Runs one attack at both levels and as both users, and says what was wrong.
fn held(attack: &Attack) {
    for who in Who::ALL {
        if attack.runs == Runs::AsRoot && who != Who::Root {
            continue;
        }
        let scene = Scene::new(who, attack);
        let open = scene.attack(attack, Level::Advisory);
        assert!(
            open.obtained,
            "{} as {who:?}: proves nothing, since it fails without confinement: {}",
            attack.name, open.told
        );
        // What shows on the host must not be there from the first try.
        let scene = if matches!(attack.evidence, Evidence::Says) { scene } else { Scene::new(who, attack) };
        let confined = scene.attack(attack, Level::Confined);
        assert!(!confined.obtained, "{} as {who:?}: obtained what it wanted: {}", attack.name, confined.told);
        assert!(confined.ran, "{} as {who:?}: was not tried: {}", attack.name, confined.told);
        assert!(scene.control_answers(), "{} as {who:?}: the daemon does not answer any more", attack.name);
    }
}

macro_rules! attacks {
    ($($name:ident)*) => {
        $(#[test] fn $name() { held(attacks::named(stringify!($name))); })*

        #[test]
        fn every_attack_of_the_table_is_a_test() {
            let tests = [$(stringify!($name)),*];
            let table: Vec<&str> = attacks::all().map(|attack| attack.name).collect();
            assert_eq!(tests.as_slice(), table);
        }
    };
}

attacks! {
    read_the_state
    write_the_configuration
    ask_the_control_socket
    open_a_session
    run_a_second_writ
    read_credential_files
    read_another_process_environment
    read_another_process_memory
    trace_another_process
    signal_another_process
    kill_the_daemon
    limit_the_daemon
    see_other_processes
    enter_through_another_root
    join_another_network
    connect_to_the_host_loopback
    send_udp_to_the_host
    connect_to_an_abstract_socket
    connect_to_an_agent_socket
    connect_to_a_socket_in_the_work_tree
    open_a_raw_socket
    open_a_vsock
    read_an_inherited_descriptor
    change_shell_startup
    plant_a_fake_writ
    change_git_configuration
    change_npm_configuration
    leave_a_file_in_tmp
    uncover_by_unmounting
    uncover_in_a_nested_namespace
    write_core_pattern
    read_root_secrets
    leave_a_set_id_program
    give_a_program_capabilities
    outlive_the_run
    fork_without_end
    use_up_the_daemons_connections
    leave_a_program_for_the_next_login
    leave_a_job_for_cron_and_at
    look_through_a_linked_tool_directory
    connect_beside_a_tool
    connect_in_the_shared_tmp
    write_through_a_linked_cache
    claim_to_be_a_submodule
    claim_to_be_a_linked_work_tree
    write_a_linked_configuration
    replace_what_is_above_the_state
}

#[test]
fn the_table_is_written_from_the_attacks() {
    let mut text = String::from(
        "# Escapes that are tried\n\nEach row is a test of `crates/writ-cli/tests/escapes`, written from its table. The script succeeds with\n\
         `--no-confine` and is held in a confined run, as an ordinary user and as uid 0 (*root*: it needs uid 0 to succeed at all).\n\n\
         | test | what the agent does | what holds it | as |\n|---|---|---|---|\n",
    );
    for attack in attacks::all() {
        let runs = match attack.runs {
            Runs::AsBoth => "user, root",
            Runs::AsRoot => "root",
        };
        let _ = writeln!(text, "| `{}` | {} | {} | {runs} |", attack.name, attack.does, attack.held_by);
    }
    expect_file!["../../../../docs/escapes.md"].assert_eq(&text);
}
