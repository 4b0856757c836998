//! The interception CA of one session.
//!
//! ```text
//!   root (the agent trusts it; its key signs once and is gone)
//!    └─ intermediate, constrained to the session's host names
//!        └─ one leaf per host, all under one key, made when first asked for
//! ```
//!
//! All of it lives in memory and ends with the session. Even a stolen intermediate key is good for nothing but the hosts of its own
//! session: the constraint is in the certificate, and clients check it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CidrSubnet, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints, SerialNumber,
};
use rustls::{
    ServerConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::{NoServerSessionStorage, ResolvesServerCert},
    sign::{CertifiedKey, SigningKey},
};
use time::{Duration, OffsetDateTime};
use writ_core::{Host, OpenFault, Timestamp};

use crate::names;

/// How far certificates are dated back, for agents in containers whose clocks are behind.
const BACKDATE: Duration = Duration::hours(1);
/// How far they outlive the session, for the same reason.
const SLACK: Duration = Duration::hours(1);
/// What ALPN offers the agent, the best first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Signs leaves for one session.
pub(crate) struct SessionCa {
    root_pem: String,
    intermediate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    leaf_key: KeyPair,
    signing: Arc<dyn SigningKey>,
    provider: Arc<CryptoProvider>,
    validity: (OffsetDateTime, OffsetDateTime),
    made: Mutex<HashMap<Host, Arc<ServerConfig>>>,
}

impl SessionCa {
    pub(crate) fn new(
        provider: &Arc<CryptoProvider>,
        hosts: impl Iterator<Item = Host>,
        now: Timestamp,
        expires_at: Timestamp,
    ) -> Result<Self, OpenFault> {
        let fault = |what: &str| OpenFault(format!("its certificates cannot be made: {what}"));
        let at = |time: Timestamp| OffsetDateTime::from_unix_timestamp(time.millis().div_euclid(1000));
        let end = at(expires_at).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let validity = match at(now) {
            Ok(now) => (now.saturating_sub(BACKDATE), end.saturating_add(SLACK)),
            Err(_) => return Err(fault("the clock is out of range")),
        };
        let key = || KeyPair::generate().map_err(|_| fault("no key"));
        let mut root = params("writ session root", validity).ok_or_else(|| fault("no randomness"))?;
        root.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        root.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let mut middle =
            params("writ session intermediate", validity).ok_or_else(|| fault("no randomness"))?;
        middle.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        middle.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        middle.name_constraints = Some(constraints(hosts));
        // The root's key lives in this block only.
        let root = CertifiedIssuer::self_signed(root, key()?).map_err(|_| fault("the root"))?;
        let middle_key = key()?;
        let intermediate = middle.signed_by(&middle_key, &*root).map_err(|_| fault("the intermediate"))?;
        let leaf_key = key()?;
        let der = PrivateKeyDer::Pkcs8(leaf_key.serialize_der().into());
        let signing = provider.key_provider.load_private_key(der).map_err(|_| fault("the leaf key"))?;
        Ok(Self {
            root_pem: root.pem(),
            intermediate: intermediate.into(),
            issuer: Issuer::new(middle, middle_key),
            leaf_key,
            signing,
            provider: provider.clone(),
            validity,
            made: Mutex::default(),
        })
    }

    /// What the agent must trust, PEM.
    pub(crate) fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// The TLS configuration for one host. `None` when no certificate can be made for it.
    pub(crate) fn config(&self, host: &Host) -> Option<Arc<ServerConfig>> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = made.get(host) {
            return Some(known.clone());
        }
        let config = Arc::new(self.make(host)?);
        made.insert(host.clone(), config.clone());
        Some(config)
    }

    fn make(&self, host: &Host) -> Option<ServerConfig> {
        let mut leaf = params(host.as_str(), self.validity)?;
        leaf.subject_alt_names = vec![rcgen::SanType::DnsName(host.as_str().try_into().ok()?)];
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        leaf.use_authority_key_identifier_extension = true;
        let leaf = leaf.signed_by(&self.leaf_key, &self.issuer).ok()?;
        let chain = vec![leaf.into(), self.intermediate.clone()];
        let certified = Arc::new(CertifiedKey::new(chain, self.signing.clone()));
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()
            .ok()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Always(certified)));
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        // No resumption: every connection stands for itself, and holds no memory when it is gone.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Some(config)
    }
}

/// The session's hosts, and no address. A name that cannot exist stands first, because an empty list would permit everything.
fn constraints(hosts: impl Iterator<Item = Host>) -> NameConstraints {
    let nowhere = std::iter::once("writ.invalid".to_owned());
    let permitted = nowhere.chain(hosts.map(String::from)).map(GeneralSubtree::DnsName).collect();
    let excluded = vec![
        GeneralSubtree::IpAddress(CidrSubnet::from_v4_prefix([0; 4], 0)),
        GeneralSubtree::IpAddress(CidrSubnet::from_v6_prefix([0; 16], 0)),
    ];
    NameConstraints { permitted_subtrees: permitted, excluded_subtrees: excluded }
}

/// Names, dates and a random serial number: the parts in which the library's defaults are wrong for a shared leaf key.
fn params(name: &str, (from, to): (OffsetDateTime, OffsetDateTime)) -> Option<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name(name));
    params.serial_number = Some(SerialNumber::from_slice(&names::serial()?));
    (params.not_before, params.not_after) = (from, to);
    Some(params)
}

/// RFC 5280 §A.1 `ub-common-name`: 64 characters. The name that counts is the SAN's.
fn common_name(name: &str) -> &str {
    if name.len() <= 64 { name } else { "writ leaf" }
}

/// One certificate, whatever is asked: the caller has compared the name already.
#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesServerCert for Always {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}
