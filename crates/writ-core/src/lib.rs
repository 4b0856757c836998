//! The shared language of writ: who asks, what is decided, what a lease is, what crosses a process.
//!
//! ```text
//! evidence ──attest──► attestation ──registration──► principal
//! principal + asked ──authorize──► permit ──issue──► lease ──inject──► a request with the credential
//! ```
//!
//! Every crate of the workspace speaks these words, so this one does no I/O and knows no runtime: it links neither
//! tokio nor a TLS library, and its tests build in seconds. Absent on purpose: storage, sockets, wire framing
//! (`writ-api`), cryptography (whoever needs a key brings it), configuration files (`writ-broker`).
//!
//! Extension points are the traits [`Attestor`], [`Policy`], [`Engine`], [`Source`] and [`Injector`]. An implementation is one
//! file in the crate that owns it, plus two adjacent lines in that crate's `lib.rs`.

mod authority;
mod authorize;
mod brokerage;
mod door;
mod engine;
mod evidence;
pub mod fault_points;
mod ids;
mod injector;
mod lease;
mod names;
mod path;
mod placeholder;
mod preset;
mod profile;
mod quote;
mod refusal;
mod reveal;
mod scope;
mod secret;
mod time;

pub use authority::{Authority, AuthorityError, Host};
pub use authorize::{
    Action, Asked, Context, Decision, Level, Permit, Policy, PolicyFault, Principal, authorize,
};
pub use brokerage::{
    AcquireAsk, BoxFuture, Brokerage, DataPlane, Granted, Lost, Notice, OpenFault, PlaceholderEntry,
    RoutePlan, SessionPlan, SessionReady, Tiding, WatchAnswer, WatchAsk,
};
pub use door::{CAPTURED_PORTS, DOORS_MAX, Door, Egress, NamedAddress};
pub use engine::{
    Engine, EngineFault, Login, Minted, Receipt, Revoked, Rotation, Source, SourceFault, Surveyed, Tools,
};
pub use evidence::{AttestFault, Attestation, Attestor, Evidence, Selector, SelectorError, UnixEvidence};
pub use ids::{BootId, LeaseId, RequestId, SessionId};
pub use injector::{InjectFault, Injection, Injector, Place, Rendered};
pub use lease::{LeaseEnd, LeaseState};
pub use names::{CredentialName, NameError, RoleName, SpiffeId, TargetName, TrustDomain};
pub use path::{CanonicalPath, PathError, PathPattern};
pub use placeholder::{Alphabet, Placeholder, PlaceholderError, Shape};
pub use preset::{PRESETS, Preset, PresetPlace, looks_like_key, preset};
pub use profile::{
    AGENT_FILE_MAX, AgentFile, Lookup, PROFILES, Profile, agent_variables, home_files, managed_settings,
    profile_of,
};
pub use refusal::{Refusal, RefusalKind};
pub use reveal::Reveal;
pub use scope::{Grant, Scope};
pub use secret::{RecipientKey, Sealed, Secret};
pub use time::{Clock, Timestamp, Ttl, TtlError};
