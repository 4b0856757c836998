//! Changing a password that lives on: the administrator's own, and with the same statement that of any other role.

use tokio_postgres::Client;
use writ_core::{CredentialName, EngineFault, Secret};

use super::{
    batch::{Fault, answer},
    connect::{ConnectFault, Endpoint, connect},
    quote::{ident, literal},
    session::{APPLICATION, Trouble, once},
    verifier::{CUSTOMARY, verifier},
};

/// Makes `password` the password of `role`, with as many iterations as the server itself would take.
pub(crate) async fn set_password(client: &Client, role: &str, password: &Secret) -> Result<(), String> {
    let verifier = verifier(password, CUSTOMARY).map_err(|_| "the system gives no randomness".to_owned())?;
    let sql = format!("ALTER ROLE {} PASSWORD {}", ident(role), literal(&verifier));
    match answer(client.batch_execute(&sql)).await {
        Ok(()) => Ok(()),
        Err(Fault::Lost(Trouble::Unreachable(why)) | Fault::Said(Trouble::Refused(why))) => Err(why),
        Err(_) => Err("the server did not do it".to_owned()),
    }
}

/// Logs in with `current` and makes `next` the password of whoever that is.
pub(super) async fn set(
    credential: &CredentialName,
    endpoint: &Endpoint,
    lane: String,
    current: &Secret,
    next: &Secret,
) -> Result<(), EngineFault> {
    let live = once(endpoint, current).await.map_err(|trouble| troubled(credential, lane, trouble))?;
    let done = set_password(&live.client, &endpoint.user, next).await;
    done.map_err(|detail| EngineFault::Outside { credential: credential.clone(), detail })
}

/// Whether `candidate` logs in.
pub(super) async fn test(
    credential: &CredentialName,
    endpoint: &Endpoint,
    lane: String,
    candidate: &Secret,
) -> Result<bool, EngineFault> {
    match connect(endpoint, Some(candidate), APPLICATION).await {
        Ok(_) => Ok(true),
        Err(ConnectFault::Login(_)) => Ok(false),
        Err(fault) => Err(judged(credential, lane, fault)),
    }
}

pub(super) fn troubled(credential: &CredentialName, lane: String, trouble: Trouble) -> EngineFault {
    let credential = credential.clone();
    match trouble {
        Trouble::Unreachable(detail) => EngineFault::Unreachable { lane, detail },
        Trouble::Config(detail) => EngineFault::Config { credential, detail },
        Trouble::Refused(detail) | Trouble::Dependent(detail) => EngineFault::Outside { credential, detail },
        Trouble::Aborted | Trouble::Password => {
            EngineFault::Outside { credential, detail: "the server did not do it".to_owned() }
        }
    }
}

fn judged(credential: &CredentialName, lane: String, fault: ConnectFault) -> EngineFault {
    let detail = fault.to_string();
    match fault {
        ConnectFault::Unreachable(_) => EngineFault::Unreachable { lane, detail },
        ConnectFault::Endpoint(_) => EngineFault::Config { credential: credential.clone(), detail },
        ConnectFault::Login(_) | ConnectFault::Refused(_) => {
            EngineFault::Outside { credential: credential.clone(), detail }
        }
    }
}
