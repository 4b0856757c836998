//! The stand-in's own certificate authority.
//!
//! Every start makes a new root, so nothing outlives a test and no certificate is ever checked in. Leaves are
//! made on the first handshake for a name and kept, for any name at all: the point of a stand-in is to be
//! `api.openai.com` for a client that believes in this root. Absent on purpose: intermediates, CRLs and
//! OCSP, which no upstream check of ours reads.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SerialNumber,
};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};

/// How long before now a certificate starts to be valid, against clocks that disagree.
const BACKDATED: Duration = Duration::from_secs(3600);
/// How long a certificate of a stand-in lives. A test run is shorter.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// Certificate serials are 16 random bytes (RFC 5280 §4.1.2.2 allows 20).
const SERIAL_LEN: usize = 16;

/// What may be wrong with a leaf, to test that a caller verifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LeafDefect {
    /// Nothing: the leaf verifies under the stand-in's root for the asked name.
    #[default]
    None,
    /// The leaf's life ended an hour ago.
    Expired,
    /// The leaf's life begins tomorrow.
    NotYetValid,
    /// The leaf names `wrong-name.invalid`.
    WrongName,
    /// Another root signed the leaf.
    UnknownIssuer,
}

/// A root made at start, and the leaves that it signed.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    stranger: Issuer<'static, KeyPair>,
    root_pem: String,
    leaf_key: KeyPair,
    leaves: Mutex<HashMap<(String, LeafDefect), Arc<CertifiedKey>>>,
}

impl Ca {
    /// Makes a new root, valid from an hour ago for a day.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn mint() -> io::Result<Self> {
        let (issuer, root_pem) = root("writ stand-in root")?;
        let (stranger, _) = root("writ stand-in stranger")?;
        let leaf_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(io::Error::other)?;
        Ok(Self { issuer, stranger, root_pem, leaf_key, leaves: Mutex::default() })
    }

    /// The root certificate, PEM.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.root_pem
    }

    /// A leaf for `name` and its private key, both PEM, for servers that read files.
    ///
    /// # Errors
    /// When `name` is not a DNS name.
    pub fn leaf_pem(&self, name: &str) -> io::Result<(String, String)> {
        let leaf = self.sign(name, LeafDefect::None)?;
        Ok((leaf.pem(), self.leaf_key.serialize_pem()))
    }

    /// The leaf for `name`, made on the first call.
    pub(crate) fn leaf(&self, name: &str, defect: LeafDefect) -> io::Result<Arc<CertifiedKey>> {
        let mut leaves = self.leaves.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = leaves.get(&(name.to_owned(), defect)) {
            return Ok(Arc::clone(known));
        }
        let leaf = self.sign(name, defect)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.leaf_key.serialize_der()));
        let key = aws_lc_rs::sign::any_supported_type(&key).map_err(io::Error::other)?;
        let made = Arc::new(CertifiedKey::new(vec![leaf.der().clone()], key));
        leaves.insert((name.to_owned(), defect), Arc::clone(&made));
        Ok(made)
    }

    fn sign(&self, name: &str, defect: LeafDefect) -> io::Result<rcgen::Certificate> {
        let named = if defect == LeafDefect::WrongName { "wrong-name.invalid" } else { name };
        let mut params = CertificateParams::new(vec![named.to_owned()]).map_err(io::Error::other)?;
        params.distinguished_name.push(DnType::CommonName, named);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial()?);
        let now = SystemTime::now();
        let (from, until) = match defect {
            LeafDefect::Expired => (now - LIFETIME, now - BACKDATED),
            LeafDefect::NotYetValid => (now + LIFETIME, now + LIFETIME + LIFETIME),
            _ => (now - BACKDATED, now + LIFETIME),
        };
        params.not_before = from.into();
        params.not_after = until.into();
        let issuer = if defect == LeafDefect::UnknownIssuer { &self.stranger } else { &self.issuer };
        params.signed_by(&self.leaf_key, issuer).map_err(io::Error::other)
    }
}

fn root(common_name: &str) -> io::Result<(Issuer<'static, KeyPair>, String)> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(io::Error::other)?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(serial()?);
    let now = SystemTime::now();
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + LIFETIME).into();
    let pem = params.self_signed(&key).map_err(io::Error::other)?.pem();
    Ok((Issuer::new(params, key), pem))
}

fn serial() -> io::Result<SerialNumber> {
    let mut bytes = [0u8; SERIAL_LEN];
    crate::random(&mut bytes)?;
    bytes[0] &= 0x7f;
    Ok(SerialNumber::from_slice(&bytes))
}
