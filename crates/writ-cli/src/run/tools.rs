//! Which directories a program needs besides the system's own: the prefix it is installed under, and those of `PATH`.
//!
//! People install tools in many places: a virtual environment beside the checkout, a toolchain on another disk. Where a
//! directory of executables belongs to a prefix (`bin` beside `lib` or `pyvenv.cfg`), the prefix is needed; else the
//! directory alone. Nothing that holds the home directory is ever taken for a prefix: it would show what is beside the tools.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

/// What makes the parent of a `bin` a prefix.
const PREFIX_MARKS: &[&str] = &["pyvenv.cfg", "lib", "libexec"];
/// In a virtual environment: names the directory of the interpreter that it is made from.
const VENV_FILE: &str = "pyvenv.cfg";
const VENV_HOME: &str = "home";
const INTERPRETERS: &[&str] = &["python3", "python"];
/// Of [`VENV_FILE`], read at the most.
const VENV_FILE_MAX: usize = 4096;

/// The directories of `search`, each with its prefix where it has one, and what virtual environments are made from.
pub fn of_path(search: &OsStr, home: &Path) -> Vec<PathBuf> {
    let directories = std::env::split_paths(search).filter(|directory| directory.is_absolute());
    directories.flat_map(|directory| around(&directory, home)).collect()
}

/// What belongs to the executable at `path`.
pub fn of_program(path: &Path, home: &Path) -> Vec<PathBuf> {
    let mut needed = vec![path.to_path_buf()];
    needed.extend(path.parent().into_iter().flat_map(|directory| around(directory, home)));
    needed
}

fn around(directory: &Path, home: &Path) -> Vec<PathBuf> {
    let mut needed = vec![directory.to_path_buf()];
    if let Some(prefix) = prefix(directory).filter(|prefix| !home.starts_with(prefix)) {
        needed.push(prefix.to_path_buf());
        if let Some(base) = base(prefix) {
            needed.extend(
                self::prefix(&base).filter(|prefix| !home.starts_with(prefix)).map(Path::to_path_buf),
            );
            needed.push(base);
        }
    }
    needed
}

fn prefix(directory: &Path) -> Option<&Path> {
    let prefix = directory.parent().filter(|_| directory.file_name() == Some(OsStr::new("bin")))?;
    PREFIX_MARKS.iter().any(|mark| prefix.join(mark).exists()).then_some(prefix)
}

/// The directory of the interpreter behind a virtual environment.
fn base(prefix: &Path) -> Option<PathBuf> {
    let file = prefix.join(VENV_FILE);
    let small = fs::metadata(&file).is_ok_and(|found| found.len() <= VENV_FILE_MAX as u64);
    let text = small.then(|| fs::read_to_string(file).ok()).flatten()?;
    let lines = text.lines().filter_map(|line| line.split_once('='));
    let home = lines.map(|(key, value)| (key.trim(), value.trim())).find(|(key, _)| *key == VENV_HOME);
    let base = home.map(|(_, value)| PathBuf::from(value)).filter(|path| path.is_absolute())?;
    // An agent may have written the file: it is believed of what holds an interpreter, and no link in its own tree leads away.
    let base = fs::canonicalize(base).ok()?;
    let interpreter = INTERPRETERS.iter().any(|name| base.join(name).is_file());
    (interpreter && base.file_name() == Some(OsStr::new("bin"))).then_some(base)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_more_than_a_directory_with_a_bin() {
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name);
        for name in
            ["python/bin", "python/lib", "venv/bin", "loose/bin", "home/bin", "home/lib", "up/bin", "up/lib"]
        {
            fs::create_dir_all(at(name)).unwrap();
        }
        let made_from =
            format!("include-system-site-packages = false\nhome = {}\n", at("python/bin").display());
        fs::write(at("venv/pyvenv.cfg"), made_from).unwrap();
        fs::write(at("python/bin/python3"), "").unwrap();
        // What an agent could write into its own tree.
        for (name, named) in [("lies", at("loose/bin")), ("leads", at("leads/away"))] {
            fs::create_dir_all(at(name).join("bin")).unwrap();
            fs::write(at(name).join("pyvenv.cfg"), format!("home = {}\n", named.display())).unwrap();
        }
        std::os::unix::fs::symlink(at("loose"), at("leads/away")).unwrap();
        let home = at("home/ada");
        let names = |of: &str, home: &Path| {
            let found = around(&at(of), home);
            found
                .iter()
                .map(|path| path.strip_prefix(scratch.path()).unwrap().display().to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(names("python/bin", &home), ["python/bin", "python"]);
        assert_eq!(names("venv/bin", &home), ["venv/bin", "venv", "python", "python/bin"]);
        assert_eq!(names("lies/bin", &home), ["lies/bin", "lies"], "no interpreter is there");
        assert_eq!(names("leads/bin", &home), ["leads/bin", "leads"]);
        assert_eq!(names("loose/bin", &home), ["loose/bin"], "what lies beside it is none of its business");
        assert_eq!(names("python/lib", &home), ["python/lib"]);
        assert_eq!(names("home/bin", &home), ["home/bin"], "the home would be in it");
        assert_eq!(names("up/bin", &at("up")), ["up/bin"]);
    }
}
