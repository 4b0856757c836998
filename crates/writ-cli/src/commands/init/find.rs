//! The keys that `writ init` could take over: in the environment, and in the work tree's env files.

use std::{
    env,
    path::{Path, PathBuf},
};

use writ_api::control::CredentialRow;
use writ_core::{CredentialName, PRESETS, Placeholder, Preset, Secret};
use zeroize::Zeroizing;

use crate::{
    env_vars,
    fault::Fault,
    keys::{
        self,
        file::{EnvFile, Unfit},
        mask, search,
        text::{self, Finding},
    },
};

/// Shorter values are no keys.
const KEY_MIN: usize = 8;
/// A beginning of at least this length belongs to one vendor, whatever the variable says; `sk-` is several vendors'.
const TELLING_PREFIX: usize = 4;

/// What a key would become.
#[derive(Clone, Debug)]
pub(super) struct Service {
    /// The credential's name.
    pub name: CredentialName,
    /// The services that take it.
    pub presets: Vec<&'static Preset>,
    pub variables: Vec<String>,
}

/// One value, and everywhere it stands.
pub(super) struct Key {
    pub service: Service,
    value: Zeroizing<String>,
    pub places: Vec<Place>,
}

pub(super) enum Place {
    Environment { variable: String },
    File { file: usize, finding: Finding },
}

/// Everything that was found.
pub(super) struct Found {
    services: Vec<Service>,
    pub files: Vec<EnvFile>,
    pub keys: Vec<Key>,
    /// Files that may hold keys and are left alone.
    pub unfit: Vec<(PathBuf, Unfit)>,
    /// Keys of services that no credential is for: the file, the variable, the service.
    pub unserved: Vec<(PathBuf, String, &'static Preset)>,
    /// Variables that sound like secrets of unknown services.
    pub others: Vec<(PathBuf, Vec<String>)>,
    /// The search reached a limit.
    pub cut: bool,
}

/// One service for each key that presets share.
pub(super) fn known_services() -> Vec<Service> {
    let mut services: Vec<Service> = Vec::new();
    for preset in PRESETS {
        let shares = |service: &&mut Service| service.presets.iter().any(|one| one.env == preset.env);
        match services.iter_mut().find(shares) {
            Some(service) => service.presets.push(preset),
            None => services.extend(preset.name.parse().ok().map(|name| Service {
                name,
                presets: vec![preset],
                variables: preset.env.iter().map(|name| (*name).to_owned()).collect(),
            })),
        }
    }
    services
}

/// The credentials of an existing configuration.
pub(super) fn configured_services(rows: &[CredentialRow]) -> Vec<Service> {
    let service = |row: &CredentialRow| Service {
        name: row.name.clone(),
        presets: PRESETS
            .iter()
            .filter(|preset| {
                preset.name == row.name.as_str()
                    || row.env.iter().any(|name| preset.env.contains(&name.as_str()))
            })
            .collect(),
        variables: row.env.clone(),
    };
    rows.iter().map(service).collect()
}

impl Found {
    /// In the environment and in files.
    pub(super) fn with_environment(services: Vec<Service>) -> Result<Self, Fault> {
        let mut found = Self::empty(services);
        for service in found.services.clone() {
            for variable in &service.variables {
                let value = env::var(variable).map(Zeroizing::new).ok().filter(|value| is_key(value));
                if let Some(value) = value {
                    let variable = variable.clone();
                    found.add(service.clone(), value, Place::Environment { variable });
                }
            }
        }
        found.search()?;
        Ok(found)
    }

    /// In files alone.
    pub(super) fn in_files(services: Vec<Service>) -> Result<Self, Fault> {
        let mut found = Self::empty(services);
        found.search()?;
        Ok(found)
    }

    /// Whether there is a file that is worth a closer look.
    pub(super) fn may_hold_keys(&self) -> bool {
        !self.files.is_empty() || !self.unfit.is_empty()
    }

    fn empty(services: Vec<Service>) -> Self {
        Self {
            services,
            files: Vec::new(),
            keys: Vec::new(),
            unfit: Vec::new(),
            unserved: Vec::new(),
            others: Vec::new(),
            cut: false,
        }
    }

    fn search(&mut self) -> Result<(), Fault> {
        let start = env::current_dir().map_err(|error| {
            Fault::new(format!("the current directory: {error}"), "change to another one")
        })?;
        let home = env::var_os(env_vars::HOME).map(PathBuf::from);
        let files = search::files(&start, home.as_deref());
        self.cut = files.cut;
        for path in files.paths {
            match EnvFile::read(&path) {
                Ok(file) => self.file(file),
                Err(Unfit::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(unfit) => self.unfit.push((path, unfit)),
            }
        }
        Ok(())
    }

    fn file(&mut self, file: EnvFile) {
        let known = |name: &str| self.services.iter().any(|one| one.variables.iter().any(|own| own == name));
        let findings = text::findings(file.bytes(), known);
        let others = text::other_secrets(file.bytes(), &findings);
        let path = file.path().to_owned();
        if !others.is_empty() {
            self.others.push((path.clone(), others));
        }
        if findings.is_empty() {
            return;
        }
        let number = self.files.len();
        for finding in findings {
            let Some(value) = text::text(file.bytes(), finding.at.clone()) else { continue };
            let value = Zeroizing::new(value.to_owned());
            match self.service(finding.variable.as_deref(), &value).cloned() {
                Some(service) => self.add(service, value, Place::File { file: number, finding }),
                None => {
                    let variable = finding.variable.unwrap_or_else(|| format!("line {}", finding.line));
                    self.unserved
                        .extend(keys::service(&value).map(|preset| (path.clone(), variable, preset)));
                }
            }
        }
        self.files.push(file);
    }

    fn service(&self, variable: Option<&str>, value: &str) -> Option<&Service> {
        let preset = keys::service(value);
        let telling = |preset: &&Preset| {
            let length =
                preset.key_prefixes.iter().filter(|one| value.starts_with(**one)).map(|one| one.len());
            length.max().is_some_and(|length| length >= TELLING_PREFIX)
        };
        let of_preset = |preset: &Preset| {
            let takes = |service: &&Service| service.presets.iter().any(|one| one.name == preset.name);
            self.services.iter().find(takes)
        };
        if let Some(preset) = preset.filter(telling) {
            return of_preset(preset);
        }
        let named = variable
            .and_then(|name| self.services.iter().find(|one| one.variables.iter().any(|own| own == name)));
        named.or_else(|| preset.and_then(of_preset))
    }

    fn add(&mut self, service: Service, value: Zeroizing<String>, place: Place) {
        let same = |key: &&mut Key| key.service.name == service.name && key.value == value;
        match self.keys.iter_mut().find(same) {
            Some(key) => key.places.push(place),
            None => self.keys.push(Key { service, value, places: vec![place] }),
        }
    }
}

impl Key {
    pub(super) fn secret(&self) -> Secret {
        Secret::new(self.value.as_bytes().to_vec())
    }

    pub(super) fn masked(&self) -> String {
        mask(&self.value)
    }

    /// The variables under which programs know it.
    pub(super) fn seen_in(&self) -> String {
        let own = || self.service.variables.first().cloned().unwrap_or_else(|| "its variable".to_owned());
        self.places.iter().find_map(Place::variable).map_or_else(own, ToOwned::to_owned)
    }

    /// `in the environment, .env:3`
    pub(super) fn stands_in(&self, files: &[EnvFile]) -> String {
        let place = |place: &Place| match place {
            Place::Environment { .. } => "the environment".to_owned(),
            Place::File { file, finding } => {
                let path = files.get(*file).map_or_else(String::new, |file| shown(file.path()));
                format!("{path}:{}", finding.line)
            }
        };
        self.places.iter().map(place).collect::<Vec<_>>().join(", ")
    }

    pub(super) fn in_a_file(&self) -> bool {
        self.places.iter().any(|place| matches!(place, Place::File { .. }))
    }
}

impl Place {
    fn variable(&self) -> Option<&str> {
        match self {
            Self::Environment { variable } => Some(variable),
            Self::File { finding, .. } => finding.variable.as_deref(),
        }
    }
}

fn is_key(value: &str) -> bool {
    value.len() >= KEY_MIN && !value.contains(Placeholder::MARK)
}

/// A path as a person would write it here.
pub fn shown(path: &Path) -> String {
    let here = env::current_dir().and_then(std::fs::canonicalize).ok();
    let short = here.as_deref().and_then(|here| path.strip_prefix(here).ok());
    short.unwrap_or(path).display().to_string()
}
