//! From the key to the identity that both ends of every TLS connection prove.
//!
//! All machines with the same `key.secret` are one party: they derive the same Ed25519 key pair, present a certificate
//! of it and accept exactly it. The public half is shown to anybody who starts a handshake, so a key that a human made
//! up could be guessed offline from it; `wormhole keygen` makes 256 random bits, for which that is hopeless.

use super::Key;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use std::fmt;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Changing this makes other identities of the same keys: machines with different contexts refuse each other.
const CONTEXT: &str = "wormhole 2026-11 ed25519 identity v1";

/// The fixed start of an Ed25519 private key in PKCS#8 v1 (RFC 8410, section 7): SEQUENCE { version 0, algorithm
/// 1.3.101.112, OCTET STRING { OCTET STRING (32 bytes) } }. The seed follows.
const PKCS8_V1_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// The Ed25519 identity of a key, ready for TLS. Cheap to clone.
#[derive(Clone)]
pub struct Identity {
    pub(super) certified: Arc<CertifiedKey>,
    /// The SubjectPublicKeyInfo that the other side must present.
    pub(super) spki: Arc<[u8]>,
    pub(super) provider: Arc<CryptoProvider>,
}

/// Why there is no identity. None of these depends on what the key says; they mean that a library disagrees.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// ring did not take the seed.
    #[error("derive the Ed25519 key pair from the key: {0}")]
    KeyPair(String),
    /// rcgen did not make the certificate.
    #[error("make the certificate of the identity: {0}")]
    Certificate(String),
    /// rustls did not take key or settings.
    #[error("set up TLS 1.3 with the identity: {0}")]
    Tls(#[from] rustls::Error),
}

impl Identity {
    /// Derives the identity of `key`. The same key gives the same public key on every machine.
    ///
    /// # Errors
    /// [`IdentityError`] when one of the TLS libraries refuses; no key text leads to it.
    pub fn derive(key: &Key) -> Result<Self, IdentityError> {
        let seed = Zeroizing::new(blake3::derive_key(CONTEXT, key.secret()));
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed[..]).map_err(|e| IdentityError::KeyPair(e.to_string()))?;
        let signer = Signer { public: pair.public_key().as_ref().to_vec(), pair };
        let certificate = certificate(&signer)?;
        let spki: Arc<[u8]> = rcgen::PublicKeyData::subject_public_key_info(&signer).into();

        let mut pkcs8 = Zeroizing::new([0_u8; 48]);
        pkcs8[..16].copy_from_slice(&PKCS8_V1_PREFIX);
        pkcs8[16..].copy_from_slice(&seed[..]);
        // Borrowed, so that rustls makes no copy that outlives the zeroizing.
        let key = rustls::crypto::ring::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(&pkcs8[..]))?;
        let certified = Arc::new(CertifiedKey::new(vec![certificate], key));
        certified.keys_match()?;
        Ok(Self { certified, spki, provider: Arc::new(rustls::crypto::ring::default_provider()) })
    }

    /// First 8 bytes of the hash of the public key, in hexadecimal: enough for a human to compare two machines.
    pub fn fingerprint(&self) -> String {
        blake3::hash(&self.spki).to_hex().chars().take(16).collect()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.fingerprint())
    }
}

fn certificate(signer: &Signer) -> Result<CertificateDer<'static>, IdentityError> {
    let wrong = |e: rcgen::Error| IdentityError::Certificate(e.to_string());
    // The name is only there because X.509 wants one, nobody looks at it; see `tls`.
    let mut params = rcgen::CertificateParams::new(vec!["wormhole".to_owned()]).map_err(wrong)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, "wormhole");
    Ok(params.self_signed(signer).map_err(wrong)?.into())
}

/// ring's key pair as rcgen wants it. rcgen's own key pair would keep the private key in plain memory.
struct Signer {
    public: Vec<u8>,
    pair: Ed25519KeyPair,
}

impl rcgen::PublicKeyData for Signer {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ED25519
    }
}

impl rcgen::SigningKey for Signer {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(self.pair.sign(message).as_ref().to_vec())
    }
}
