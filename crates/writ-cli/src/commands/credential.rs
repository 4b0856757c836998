//! `writ credential`: values go in, and never come out again.

use std::{
    fs,
    io::{self, IsTerminal, Read},
    path::Path,
};

use writ_api::{
    control::{Answer, Ask, CredentialRow, Value},
    seal::{self, Place},
};
use writ_core::{CredentialName, Secret};

use super::{proof, when};
use crate::{
    args,
    client::Control,
    fault::Fault,
    output::{self, Output},
    paths::Paths,
};

/// The longest value.
const VALUE_MAX: u64 = 64 * 1024;

pub fn run(paths: &Paths, output: Output, command: args::Credential) -> Result<(), Fault> {
    match command {
        args::Credential::Set { name, file, from } => set(paths, output, name, file.as_deref(), from),
        args::Credential::List => list(paths, output),
        args::Credential::Rotate { name } => rotate(paths, output, name),
        args::Credential::Remove { name } => remove(paths, output, name),
    }
}

fn set(
    paths: &Paths,
    output: Output,
    name: CredentialName,
    file: Option<&Path>,
    from: Option<String>,
) -> Result<(), Fault> {
    let mut control = Control::connect(paths)?;
    proof::give(&mut control)?;
    let value = match from {
        Some(reference) => Value::Reference { reference },
        None => sealed(&control, &name, read_value(&name, file)?)?,
    };
    let answer = control.ask(&Ask::CredentialSet { name: name.clone(), value })?;
    if let Answer::CredentialSet { version, leases_revoked } = &answer {
        output.result(&answer, || match leases_revoked {
            0 => format!("{name}: version {version} is set"),
            n => format!("{name}: version {version} is set; {n} leases on older ones are revoked"),
        });
    }
    Ok(())
}

/// Seals a value to the daemon, bound to the credential's name.
pub fn sealed(control: &Control, name: &CredentialName, value: Secret) -> Result<Value, Fault> {
    let place = Place::Control { purpose: format!("credential {name}") };
    let sealed = seal::seal(&value, control.recipient(), &place)
        .map_err(|fault| Fault::new(fault.to_string(), "try again"))?;
    Ok(Value::Sealed { value: sealed })
}

fn read_value(name: &CredentialName, file: Option<&Path>) -> Result<Secret, Fault> {
    let failed = |error: io::Error| {
        Fault::new(format!("the value of {name}: {error}"), "give it on stdin, or name a file")
    };
    let mut bytes = Vec::new();
    match file {
        Some(path) => {
            fs::File::open(path).and_then(|file| file.take(VALUE_MAX + 1).read_to_end(&mut bytes)).map(drop)
        }
        None if io::stdin().is_terminal() => {
            writ_sys::read_passphrase(&format!("value of {name} (not shown): "))
                .map(|value| bytes.extend_from_slice(&value))
        }
        None => io::stdin().lock().take(VALUE_MAX + 1).read_to_end(&mut bytes).map(drop),
    }
    .map_err(failed)?;
    // Editors and echo end a line; no key ends with one.
    while matches!(bytes.last(), Some(b'\n' | b'\r')) {
        bytes.pop();
    }
    let secret = Secret::new(bytes);
    if secret.is_empty() {
        return Err(Fault::new(
            format!("the value of {name} is empty"),
            format!("printf %s \"$KEY\" | writ credential set {name}"),
        ));
    }
    if secret.len() as u64 > VALUE_MAX {
        return Err(Fault::new(
            format!("the value of {name} is longer than 64 KiB"),
            "check which file it is",
        ));
    }
    Ok(secret)
}

fn list(paths: &Paths, output: Output) -> Result<(), Fault> {
    let Answer::Credentials { credentials } = Control::connect(paths)?.ask(&Ask::CredentialList)? else {
        return Ok(());
    };
    output.result(&credentials, || {
        let row = |row: &CredentialRow| {
            [
                row.name.to_string(),
                if row.rotating { format!("{} (rotating)", row.source) } else { row.source.clone() },
                row.version.to_string(),
                row.set_at.map_or_else(String::new, when),
                row.targets.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
                row.env.join(" "),
                row.leases.to_string(),
                row.owner.clone().unwrap_or_default(),
            ]
        };
        output::table(
            ["NAME", "SOURCE", "VERSION", "SET", "TARGETS", "VARIABLES", "LEASES", "OWNER"],
            credentials.iter().map(row),
        )
    });
    Ok(())
}

fn rotate(paths: &Paths, output: Output, name: CredentialName) -> Result<(), Fault> {
    let mut control = Control::connect(paths)?;
    proof::give(&mut control)?;
    let answer = control.ask(&Ask::CredentialRotate { name: name.clone() })?;
    if let Answer::Rotated { version, leases_ended } = &answer {
        output.result(&answer, || match leases_ended {
            0 => format!("{name}: version {version} is in force"),
            n => format!("{name}: version {version} is in force; {n} leases on the old password are revoked"),
        });
    }
    Ok(())
}

fn remove(paths: &Paths, output: Output, name: CredentialName) -> Result<(), Fault> {
    let mut control = Control::connect(paths)?;
    proof::give(&mut control)?;
    control.ask(&Ask::CredentialRemove { name: name.clone() })?;
    output.say(&format!("{name} is removed here; at its service the key lives on until you revoke it there"));
    Ok(())
}
