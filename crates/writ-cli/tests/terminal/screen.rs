//! Programs that own the screen, and what is typed and pasted into them.

use std::fs;

use super::place::{END, ESCAPE, INTERRUPT, READY, READY2, STOP, enter, for_all, prompt, status};

#[test]
fn an_editor_works_and_stops() {
    for_all(|place| {
        let (p, mut pty) = (place.prefix(), place.bash());
        enter(&mut pty, &format!("{p}vim.tiny -u NONE -N letter"));
        pty.wait_for("[New]").unwrap();
        pty.press("ihello wor").unwrap();
        pty.wait_for("hello wor").unwrap();
        // It reads this key; the terminal does not.
        pty.press(&format!("{ESCAPE}{STOP}")).unwrap();
        pty.wait_for("Stopped").unwrap();
        prompt(&mut pty);
        enter(&mut pty, "fg");
        // It draws its text again.
        pty.wait_for("hello wor").unwrap();
        pty.press(&format!("ald{ESCAPE}:wq\n")).unwrap();
        pty.wait_for("outer> ").unwrap();
        assert_eq!(status(&mut pty), 0);
        assert_eq!(fs::read_to_string(place.work().join("letter")).unwrap(), "hello world\n");
    });
}

#[test]
fn a_pager_pages_and_pipelines_stop_as_one() {
    for_all(|place| {
        let (p, mut pty) = (place.prefix(), place.bash());
        for line in [
            format!("{p}seq 100000 | less"),
            format!("seq 100000 | {p}less"),
            format!("{p}seq 100000 | {p}less"),
            format!("seq 100000 > numbers; {p}less numbers"),
        ] {
            enter(&mut pty, &line);
            pty.wait_for("\r\n23").unwrap();
            pty.press_until(STOP, "Stopped").unwrap();
            prompt(&mut pty);
            // A pager that is stopped while it starts may take the key for two.
            pty.press_until("fg\n", "\r\n23").unwrap();
            pty.press("G").unwrap();
            pty.wait_for("100000").unwrap();
            pty.press("q").unwrap();
            pty.wait_for("outer> ").unwrap();
            enter(&mut pty, "jobs; echo all-$((1+1))");
            let jobs = pty.wait_for("all-2").unwrap();
            assert!(!jobs.contains("Stopped"), "{line}: {jobs}");
            pty.wait_for("outer> ").unwrap();
        }
    });
}

#[test]
fn the_head_of_a_pipeline_may_ask_at_the_terminal() {
    for_all(|place| {
        let (p, mut pty) = (place.prefix(), place.bash());
        let ask = format!("sh -c '{READY2} >&2; read x </dev/tty; echo got-$x'");
        // A key while a launch is under way is another matter: both ends must be there.
        let cat = format!("sh -c '{READY2} >&2; exec cat'");
        for line in [format!("{ask} | {p}{cat}"), format!("{p}{ask} | {cat}"), format!("{p}{ask} | {p}{cat}")]
        {
            enter(&mut pty, &line);
            pty.wait_for("ready").unwrap();
            pty.wait_for("ready").unwrap();
            pty.press(STOP).unwrap();
            pty.wait_for("Stopped").unwrap();
            prompt(&mut pty);
            enter(&mut pty, "fg");
            pty.wait_for("cat").unwrap();
            enter(&mut pty, "hello");
            pty.wait_for("got-hello").unwrap();
            pty.wait_for("outer> ").unwrap();
        }
    });
}

#[test]
fn the_window_may_change_its_size() {
    for_all(|place| {
        let (p, mut pty) = (place.prefix(), place.bash());
        enter(&mut pty, &format!("{p}python3 measures.py"));
        pty.wait_for("ready").unwrap();
        for (rows, columns) in [(40, 100), (30, 132)] {
            pty.resize(rows, columns).unwrap();
            pty.wait_for(&format!("{rows} rows {columns} columns")).unwrap();
        }
        pty.press(INTERRUPT).unwrap();
        pty.wait_for("outer> ").unwrap();
    });
}

#[test]
fn what_is_pasted_arrives_whole() {
    for_all(|place| {
        let (p, mut pty) = (place.prefix(), place.bash());
        let text: String = (0..20_000).map(|n| format!("{n:09} ")).collect();
        let program = "stty raw -echo; printf 'rea%s\\n' dy; head -c 200000 >pasted; stty -raw echo";
        enter(&mut pty, &format!("{p}sh -c \"{program}\""));
        pty.wait_for("ready").unwrap();
        pty.press(&text).unwrap();
        pty.wait_for("outer> ").unwrap();
        assert!(fs::read_to_string(place.work().join("pasted")).unwrap() == text);

        enter(&mut pty, &format!("{p}sh -c \"{READY}; cat >lines\""));
        pty.wait_for("ready").unwrap();
        let lines: String = (0..2000).map(|n| format!("line {n}\n")).collect();
        pty.press(&lines).unwrap();
        pty.press(END).unwrap();
        pty.wait_for("outer> ").unwrap();
        assert!(fs::read_to_string(place.work().join("lines")).unwrap() == lines);

        // Bracketed, as terminals paste into line editors.
        enter(&mut pty, &format!("{p}env PS1='inn''er> ' bash --norc --noprofile -i"));
        pty.wait_for("inner> ").unwrap();
        pty.press("\x1b[200~echo pas$((1+1))ted; echo not yet\x1b[201~").unwrap();
        pty.wait_for("not yet").unwrap();
        enter(&mut pty, "");
        pty.wait_for("pas2ted").unwrap();
        pty.wait_for("inner> ").unwrap();
        pty.press(END).unwrap();
        pty.wait_for("outer> ").unwrap();
    });
}

#[test]
fn a_password_is_not_shown() {
    for_all(|place| {
        let (p, mut pty) = (place.prefix(), place.bash());
        enter(&mut pty, &format!("{p}bash -c 'read -s -p \"pass\"\"word: \" x; echo; echo length ${{#x}}'"));
        pty.wait_for("password: ").unwrap();
        enter(&mut pty, "hunter2");
        pty.wait_for("length 7").unwrap();
        pty.wait_for("outer> ").unwrap();
        // Modes that the program leaves are what the caller finds.
        enter(&mut pty, &format!("{p}stty -onlcr; stty -a | tr ' ' '\\n' | grep onlcr; stty onlcr"));
        pty.wait_for("\n-onlcr").unwrap();
        pty.wait_for("outer> ").unwrap();
        assert!(!pty.transcript().contains("hunter2"));
    });
}

#[test]
fn input_and_output_are_piped() {
    for_all(|place| {
        let (p, mut pty) = (place.prefix(), place.bash());
        enter(&mut pty, &format!("printf 'a\\0b' | {p}cat | od -An -c; seq 100000 | {p}wc -l"));
        pty.wait_for("a  \\0   b").unwrap();
        pty.wait_for("100000").unwrap();
        pty.wait_for("outer> ").unwrap();
        enter(&mut pty, &format!("{p}yes | head -n 2; echo ${{PIPESTATUS[*]}}."));
        pty.wait_for("y\r\ny\r\n141 0.").unwrap();
        pty.wait_for("outer> ").unwrap();
        enter(&mut pty, &format!("{p}sh -c 'echo wrong >&2; echo right' 2>/dev/null; cd / && {p}pwd"));
        let seen = pty.wait_for("right\r\n/\r\n").unwrap();
        assert!(!seen.contains("wrong\r\n"), "{seen}");
    });
}
