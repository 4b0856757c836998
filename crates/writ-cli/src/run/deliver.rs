//! Where the logins of a run lie, at first and when another daemon made new ones.
//!
//! ```text
//!   confined   files in the memory of the view, replaced through the first stage       names lead to doors by themselves
//!   below      files in a directory of writ's runtime directory, removed at the end    a door on loopback for each server
//! ```
//!
//! Paths stay the same for the whole run. What is in the environment of a program that runs cannot be changed: the person is told.

use std::{
    fs, io,
    io::Write as _,
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use writ_api::{
    run::{Opened, Revealed},
    seal::Recipient,
};
use writ_core::{Authority, Reveal};
use writ_run::{Agent, DELIVERED, Delivered};

use super::{
    Session,
    logins::{self, Delivery, Way},
};
use crate::{
    fault::Fault,
    paths::{self, Paths},
};

/// The system's certificates, without the session's.
const SYSTEM_CA: &str = "system-ca.pem";
/// Begins the names of directories on the host; a daemon removes those that nobody holds.
pub const DIRECTORY_PREFIX: &str = "login-";
/// What is being written.
const NEXT: &str = ".next";

/// Where the logins of one run are.
#[derive(Debug)]
pub struct Place {
    /// By the name that the program uses.
    directory: PathBuf,
    doors: Vec<(Authority, SocketAddr)>,
    /// On the host: locked while the run lives.
    held: Option<fs::File>,
    inside: bool,
}

impl Place {
    /// In the memory of a confined program's view.
    #[cfg(target_os = "linux")]
    pub fn inside() -> Self {
        Self { directory: DELIVERED.into(), doors: Vec::new(), held: None, inside: true }
    }

    /// On the host, with a door on loopback for each server; nothing where nothing is revealed.
    pub fn on_host(paths: &Paths, session: &mut Session) -> Result<Self, Fault> {
        let directory = paths.run.join(format!("{DIRECTORY_PREFIX}{}", session.opened.session));
        let mut place = Self { directory, doors: Vec::new(), held: None, inside: false };
        if !session.opened.revealed.is_empty() {
            place.doors = session.add_login_doors()?;
            let held = paths::private_directory(&place.directory).and_then(|()| {
                let held = fs::File::open(&place.directory)?;
                held.lock()?;
                Ok(held)
            });
            place.held = Some(held.map_err(|error| place.fault(&error))?);
        }
        Ok(place)
    }

    /// What the program gets; on the host, its files are there when this returns.
    pub fn deliver(&self, opened: &Opened, recipient: Option<&Recipient>) -> Result<Delivery, Fault> {
        let system = super::system_bundle();
        let copy = self.directory.join(SYSTEM_CA);
        let seen = if self.inside { system.map(|_| copy.as_path()) } else { system.map(Path::new) };
        let way = Way { directory: &self.directory, system: seen, doors: &self.doors };
        let mut delivery = logins::deliver(&logins::open(opened, recipient)?, &way);
        if self.inside {
            if let Some(path) = system.filter(|_| opened.revealed.iter().any(trusts_the_system)) {
                let content = fs::read(path).map_err(|error| Fault::new(format!("{path}: {error}"), ""))?;
                delivery.files.push(Delivered { name: SYSTEM_CA.to_owned(), content: content.into() });
            }
        } else {
            self.write(&delivery.files).map_err(|error| self.fault(&error))?;
        }
        Ok(delivery)
    }

    /// Delivers what another daemon made, to a program that runs. Returns lines for the person.
    pub fn again(
        &self,
        opened: &Opened,
        recipient: Option<&Recipient>,
        agent: &mut Agent,
    ) -> Result<Vec<String>, Fault> {
        let delivery = self.deliver(opened, recipient)?;
        // What the system trusts has not changed, and is too long for a message.
        let files: Vec<Delivered> =
            delivery.files.into_iter().filter(|file| file.name != SYSTEM_CA).collect();
        if self.inside && !files.is_empty() {
            agent.deliver(&files).map_err(|error| self.fault(&error))?;
        }
        Ok(opened.revealed.iter().map(anew).collect())
    }

    /// The directory on the host.
    pub fn directory(&self) -> Option<&Path> {
        self.held.as_ref().map(|_| self.directory.as_path())
    }

    /// Where the program connects, on loopback.
    pub fn doors(&self) -> impl Iterator<Item = SocketAddr> {
        self.doors.iter().map(|(_, door)| *door)
    }

    /// The run is over.
    pub fn remove(self) {
        if let Some(directory) = self.directory() {
            let _ = fs::remove_dir_all(directory);
        }
    }

    /// Each is replaced whole, for whoever opens it meanwhile.
    fn write(&self, files: &[Delivered]) -> io::Result<()> {
        let next = self.directory.join(NEXT);
        for file in files {
            match fs::remove_file(&next) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let made = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&next);
            made?.write_all(&file.content.0)?;
            fs::rename(&next, self.directory.join(&file.name))?;
        }
        Ok(())
    }

    fn fault(&self, error: &io::Error) -> Fault {
        Fault::new(format!("{}: {error}", self.directory.display()), "free some space there")
    }
}

fn trusts_the_system(revealed: &Revealed) -> bool {
    revealed.tls && revealed.tls_ca.is_none()
}

fn anew(revealed: &Revealed) -> String {
    let target = &revealed.target;
    match revealed.reveal {
        // The new one has another user, and a program keeps its variables.
        Reveal::Environment | Reveal::Passfile => format!(
            "{target}: the login that the program holds ended with the old daemon; start it again, or use `reveal = \"service-file\"`"
        ),
        Reveal::ServiceFile => format!("{target}: a new login is in the service file"),
    }
}
