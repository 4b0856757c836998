//! Which file is executed: found in `PATH`, links resolved, a script's interpreter named as well.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::Read,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::{Path, PathBuf},
};

use writ_run::{Bytes, ProcessPlan, RawPath, Terminal};

use crate::{
    env_vars,
    fault::{EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, Fault},
};

/// The kernel reads this much of a script's first line (`BINPRM_BUF_SIZE`).
const SHEBANG_MAX: usize = 256;

/// A program to be started.
#[derive(Debug)]
pub struct Program {
    /// As it was typed: what becomes `argv[0]`.
    pub typed: OsString,
    pub arguments: Vec<OsString>,
    /// What is started.
    pub path: PathBuf,
    /// The binary that counts: the file itself, or the interpreter of the script.
    pub executable: PathBuf,
    pub script: Option<PathBuf>,
}

impl Program {
    /// # Errors
    /// Status 127 when there is no such file, 126 when it cannot be executed.
    pub fn resolve(command: &[OsString]) -> Result<Self, Fault> {
        let (typed, arguments) =
            command.split_first().ok_or_else(|| Fault::new("no program is named", "writ run -- CMD"))?;
        let path = find(typed)?;
        let real = fs::canonicalize(&path).map_err(|error| missing(typed, &error.to_string()))?;
        let (executable, script) = match interpreter(&real) {
            Some(interpreter) => (interpreter, Some(real)),
            None => (real, None),
        };
        Ok(Self { typed: typed.clone(), arguments: arguments.to_vec(), path, executable, script })
    }

    /// How it is executed in the directory in which we are.
    pub fn plan(&self, environment: Vec<(OsString, OsString)>, terminal: Terminal) -> ProcessPlan {
        let arguments = std::iter::once(&self.typed).chain(&self.arguments);
        ProcessPlan {
            path: self.path.clone().into(),
            arguments: arguments.cloned().map(Bytes::from).collect(),
            environment: environment.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
            directory: RawPath::default(),
            terminal,
        }
    }

    /// The files that must be there for it to be executed: as it was found, and without links, with a script's interpreter.
    pub fn places(&self) -> impl Iterator<Item = &Path> {
        [Some(self.path.as_path()), Some(&self.executable), self.script.as_deref()].into_iter().flatten()
    }

    /// This very binary, for sessions that are opened by hand.
    pub fn ourselves() -> Result<Self, Fault> {
        let path = env::current_exe().map_err(|error| Fault::new(error.to_string(), ""))?;
        Self::resolve(&[path.into_os_string()])
    }
}

fn find(name: &OsStr) -> Result<PathBuf, Fault> {
    if name.as_bytes().contains(&b'/') {
        return executable(Path::new(name)).map(|()| PathBuf::from(name));
    }
    let mut refused = None;
    for directory in env::split_paths(&env::var_os(env_vars::PATH).unwrap_or_default()) {
        let candidate = directory.join(name);
        match executable(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(fault) if fault.exit == EXIT_NOT_EXECUTABLE => refused = Some(fault),
            Err(_) => {}
        }
    }
    Err(refused.unwrap_or_else(|| missing(name, "it is not in PATH")))
}

fn executable(path: &Path) -> Result<(), Fault> {
    let found = fs::metadata(path).map_err(|error| missing(path.as_os_str(), &error.to_string()))?;
    if found.is_file() && found.permissions().mode() & 0o111 != 0 {
        return Ok(());
    }
    Err(Fault::new(format!("{} cannot be executed", path.display()), "name a program")
        .exit(EXIT_NOT_EXECUTABLE))
}

fn missing(name: &OsStr, why: &str) -> Fault {
    Fault::new(format!("{}: {why}", name.display()), "check the name and PATH").exit(EXIT_NOT_FOUND)
}

/// The interpreter that a `#!` line names, looked up in `PATH` behind `env`.
fn interpreter(script: &Path) -> Option<PathBuf> {
    let mut start = Vec::new();
    File::open(script).ok()?.take(SHEBANG_MAX as u64).read_to_end(&mut start).ok()?;
    let line = start.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let mut words = line.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty());
    let first = Path::new(OsStr::from_bytes(words.next()?));
    let named = match first.file_name() {
        Some(name) if name == "env" => {
            let name = words.find(|word| !word.starts_with(b"-") && !word.contains(&b'='))?;
            find(OsStr::from_bytes(name)).ok()?
        }
        _ => first.to_path_buf(),
    };
    fs::canonicalize(named).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_count_with_their_interpreter() {
        let directory = tempfile::tempdir().unwrap();
        let script = directory.path().join("script");
        let real_sh = fs::canonicalize("/bin/sh").unwrap();
        for first_line in ["#!/bin/sh", "#! /bin/sh -e", "#!/usr/bin/env sh", "#!/usr/bin/env -S sh -e"] {
            fs::write(&script, format!("{first_line}\nexit 0\n")).unwrap();
            fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
            let program = Program::resolve(&[script.clone().into_os_string(), "-x".into()]).unwrap();
            assert_eq!(
                (program.executable, program.script.is_some()),
                (real_sh.clone(), true),
                "{first_line}"
            );
            assert_eq!(program.arguments, ["-x"]);
        }
        assert_eq!(Program::resolve(&["sh".into()]).unwrap().executable, real_sh);
    }

    #[test]
    fn what_cannot_run_has_the_status_of_a_shell() {
        let directory = tempfile::tempdir().unwrap();
        let plain = directory.path().join("plain");
        fs::write(&plain, "x").unwrap();
        let exit = |name: &Path| Program::resolve(&[name.into()]).unwrap_err().exit;
        assert_eq!(exit(&plain), EXIT_NOT_EXECUTABLE);
        assert_eq!(exit(directory.path()), EXIT_NOT_EXECUTABLE);
        assert_eq!(exit(&directory.path().join("absent")), EXIT_NOT_FOUND);
        assert_eq!(exit(Path::new("writ-no-such-program")), EXIT_NOT_FOUND);
    }
}
