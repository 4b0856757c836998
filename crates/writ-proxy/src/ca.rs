//! The interception CA of one session.
//!
//! ```text
//!   root (the agent trusts it; its key signs once and is gone)
//!    └─ intermediate, constrained to the session's host names
//!        └─ one leaf per host, all under one key, made when first asked for
//! ```
//!
//! The certificates and the lower two keys go on with the agent into a later session ([`kept`](crate::kept)), sealed; else all of it
//! lives in memory and ends with the session. Even a stolen intermediate key is good for nothing but the hosts of its own
//! session: the constraint is in the certificate, and clients check it.

use std::{
    collections::{HashMap, HashSet},
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
use zeroize::Zeroizing;

use crate::{kept::Certificates, names};

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
    validity: Validity,
    hosts: HashSet<Host>,
    made: Mutex<HashMap<Host, Arc<ServerConfig>>>,
}

/// From when and until when certificates are good.
type Validity = (OffsetDateTime, OffsetDateTime);

impl Certificates {
    /// New ones, good for `hosts`.
    pub(crate) fn new(hosts: &[Host], now: Timestamp, expires_at: Timestamp) -> Result<Self, OpenFault> {
        let validity = validity(now, expires_at)?;
        let key = || KeyPair::generate().map_err(|_| fault("no key"));
        let mut root = params("writ session root", validity)?;
        root.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        root.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let mut middle = intermediate(validity)?;
        middle.name_constraints = Some(constraints(hosts.iter().cloned()));
        // The root's key lives in this block only.
        let root = CertifiedIssuer::self_signed(root, key()?).map_err(|_| fault("the root"))?;
        let middle_key = key()?;
        let signed = middle.signed_by(&middle_key, &*root).map_err(|_| fault("the intermediate"))?;
        Ok(Self {
            root_pem: root.pem(),
            intermediate: signed.der().to_vec(),
            intermediate_key: Zeroizing::new(middle_key.serialize_der()),
            leaf_key: Zeroizing::new(key()?.serialize_der()),
        })
    }
}

impl SessionCa {
    /// Signs leaves under `certificates`, which are good for `hosts`.
    pub(crate) fn new(
        provider: &Arc<CryptoProvider>,
        certificates: &Certificates,
        hosts: impl Iterator<Item = Host>,
        now: Timestamp,
        expires_at: Timestamp,
    ) -> Result<Self, OpenFault> {
        let validity = validity(now, expires_at)?;
        let key = |der: &[u8]| KeyPair::try_from(der).map_err(|_| fault("a key"));
        let der = PrivateKeyDer::Pkcs8(certificates.leaf_key.to_vec().into());
        let signing = provider.key_provider.load_private_key(der).map_err(|_| fault("the leaf key"))?;
        // Of the issuer's parameters, name and key are what goes into a leaf.
        let issuer = Issuer::new(intermediate(validity)?, key(&certificates.intermediate_key)?);
        Ok(Self {
            root_pem: certificates.root_pem.clone(),
            intermediate: certificates.intermediate.clone().into(),
            issuer,
            leaf_key: key(&certificates.leaf_key)?,
            signing,
            provider: provider.clone(),
            validity,
            hosts: hosts.collect(),
            made: Mutex::default(),
        })
    }

    /// What the agent must trust, PEM.
    pub(crate) fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// The TLS configuration for one host. `None` when no certificate can be made for it, as for one that the intermediate
    /// certificate does not name.
    pub(crate) fn config(&self, host: &Host) -> Option<Arc<ServerConfig>> {
        if !self.hosts.contains(host) {
            return None;
        }
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = made.get(host) {
            return Some(known.clone());
        }
        let config = Arc::new(self.make(host)?);
        made.insert(host.clone(), config.clone());
        Some(config)
    }

    fn leaf(&self, host: &Host) -> Option<CertificateDer<'static>> {
        let mut leaf = params(host.as_str(), self.validity).ok()?;
        leaf.subject_alt_names = vec![rcgen::SanType::DnsName(host.as_str().try_into().ok()?)];
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        leaf.use_authority_key_identifier_extension = true;
        leaf.signed_by(&self.leaf_key, &self.issuer).ok().map(Into::into)
    }

    fn make(&self, host: &Host) -> Option<ServerConfig> {
        let chain = vec![self.leaf(host)?, self.intermediate.clone()];
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
fn params(name: &str, (from, to): Validity) -> Result<CertificateParams, OpenFault> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name(name));
    params.serial_number =
        Some(SerialNumber::from_slice(&names::serial().ok_or_else(|| fault("no randomness"))?));
    (params.not_before, params.not_after) = (from, to);
    Ok(params)
}

fn intermediate(validity: Validity) -> Result<CertificateParams, OpenFault> {
    let mut middle = params("writ session intermediate", validity)?;
    middle.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    middle.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    Ok(middle)
}

fn validity(now: Timestamp, expires_at: Timestamp) -> Result<Validity, OpenFault> {
    let at = |time: Timestamp| OffsetDateTime::from_unix_timestamp(time.millis().div_euclid(1000));
    let now = at(now).map_err(|_| fault("the clock is out of range"))?;
    let end = at(expires_at).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    Ok((now.saturating_sub(BACKDATE), end.saturating_add(SLACK)))
}

fn fault(what: &str) -> OpenFault {
    OpenFault(format!("its certificates cannot be made: {what}"))
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

#[cfg(test)]
mod tests {
    use std::time::Duration as StdDuration;

    use rustls::{
        RootCertStore,
        client::{WebPkiServerVerifier, danger::ServerCertVerifier},
        pki_types::{ServerName, UnixTime, pem::PemObject},
    };

    use super::*;

    const NOW: i64 = 1_800_000_000_000;
    const HOUR: i64 = 3_600_000;

    fn ca(hosts: &[&str]) -> SessionCa {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let hosts: Vec<Host> = hosts.iter().map(|host| host.parse().unwrap()).collect();
        let (now, end) = (Timestamp::from_millis(NOW), Timestamp::from_millis(NOW + 8 * HOUR));
        let certificates = Certificates::new(&hosts, now, end).unwrap();
        // It believes to be good for more than it is: the constraint is in the certificate.
        let hosts = hosts.into_iter().chain(["bank.example".parse().unwrap()]);
        SessionCa::new(&provider, &certificates, hosts, now, end).unwrap()
    }

    fn chain(ca: &SessionCa, host: &str) -> Vec<CertificateDer<'static>> {
        let config = ca.config(&host.parse().unwrap()).unwrap();
        assert_eq!(config.alpn_protocols, [b"h2".to_vec(), b"http/1.1".to_vec()]);
        vec![ca.leaf(&host.parse().unwrap()).unwrap(), ca.intermediate.clone()]
    }

    fn verify(ca: &SessionCa, host: &str, millis: i64) -> Result<(), rustls::Error> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.root_pem().as_bytes()).unwrap()).unwrap();
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), ca.provider.clone())
            .build()
            .unwrap();
        let now = UnixTime::since_unix_epoch(StdDuration::from_millis(millis.unsigned_abs()));
        let chain = chain(ca, host);
        let name = ServerName::try_from(host).unwrap();
        verifier.verify_server_cert(&chain[0], &chain[1..], &name, &[], now).map(|_| ())
    }

    #[test]
    fn it_certifies_its_own_hosts_and_no_other() {
        let ca = ca(&["api.vendor.example"]);
        assert_eq!(verify(&ca, "api.vendor.example", NOW), Ok(()));
        assert!(verify(&ca, "bank.example", NOW).is_err(), "the constraint is in the certificate");
        assert!(verify(&self::ca(&[]), "bank.example", NOW).is_err(), "no host is not every host");
        assert!(!ca.root_pem().contains("PRIVATE"));
    }

    #[test]
    fn it_makes_no_leaf_for_a_host_that_it_is_not_good_for() {
        assert!(ca(&["api.vendor.example"]).config(&"other.example".parse().unwrap()).is_none());
    }

    /// The one certificate that a client has loaded vouches for what a later daemon makes.
    #[test]
    fn it_goes_on_under_the_same_root() {
        let (now, end) = (Timestamp::from_millis(NOW), Timestamp::from_millis(NOW + 8 * HOUR));
        let hosts: Vec<Host> = vec!["api.vendor.example".parse().unwrap()];
        let certificates = Certificates::new(&hosts, now, end).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let make =
            |now| SessionCa::new(&provider, &certificates, hosts.clone().into_iter(), now, end).unwrap();
        let (first, second) = (make(now), make(Timestamp::from_millis(NOW + HOUR)));
        assert_eq!(first.root_pem(), second.root_pem());
        for ca in [first, second] {
            assert_eq!(verify(&ca, "api.vendor.example", NOW + HOUR), Ok(()));
        }
    }

    #[test]
    fn certificates_are_dated_back_and_end_with_the_session() {
        let ca = ca(&["api.vendor.example"]);
        for (time, good) in [
            (NOW - 2 * HOUR, false),
            (NOW - HOUR / 2, true),
            (NOW + 8 * HOUR, true),
            (NOW + 10 * HOUR, false),
        ] {
            assert_eq!(verify(&ca, "api.vendor.example", time).is_ok(), good, "{time}");
        }
    }

    #[test]
    fn leaves_are_made_once_with_serials_of_their_own() {
        let ca = ca(&["a.example", "b.example"]);
        let (a, b) = ("a.example".parse().unwrap(), "b.example".parse().unwrap());
        assert!(Arc::ptr_eq(&ca.config(&a).unwrap(), &ca.config(&a).unwrap()));
        assert_ne!(ca.leaf(&a).unwrap(), ca.leaf(&a).unwrap());
        assert_ne!(ca.leaf(&a).unwrap(), ca.leaf(&b).unwrap());
    }
}
