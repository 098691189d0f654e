//! Handshakes in memory: who is let in, and who is not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::key::Key;
use rustls::sign::CertifiedKey;
use rustls::{ClientConnection, Connection, ServerConnection};
use zeroize::Zeroizing;

fn identity(text: &str) -> Identity {
    Identity::derive(&Key(Zeroizing::new(text.as_bytes().to_vec()))).unwrap()
}

fn ours() -> Identity {
    identity("0123456789abcdef0123456789abcdef")
}

fn other() -> Identity {
    identity("fedcba9876543210fedcba9876543210")
}

/// Moves what `from` has to say into `to`. Returns what `to` thinks of it.
fn carry(from: &mut Connection, to: &mut Connection) -> Result<bool, Error> {
    let mut wire = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut wire).unwrap();
    }
    let moved = !wire.is_empty();
    let mut rest = wire.as_slice();
    while !rest.is_empty() {
        to.read_tls(&mut rest).unwrap();
        to.process_new_packets()?;
    }
    Ok(moved)
}

/// Runs a handshake to its end. Which side refused, and why.
fn handshake(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> Result<(), (&'static str, Error)> {
    let name = ServerName::try_from("wormhole").unwrap();
    let mut client = Connection::from(ClientConnection::new(client, name).unwrap());
    let mut server = Connection::from(ServerConnection::new(server).unwrap());
    loop {
        let there = carry(&mut client, &mut server).map_err(|e| ("server", e))?;
        let back = carry(&mut server, &mut client).map_err(|e| ("client", e))?;
        if !there && !back {
            assert!(!client.is_handshaking() && !server.is_handshaking());
            return Ok(());
        }
    }
}

/// A server that accepts any certificate and any signature, to see what a client that is too trusting would meet.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

/// A client that trusts everybody and presents `with`, or nothing.
fn careless(with: Option<Arc<CertifiedKey>>) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody));
    Arc::new(match with {
        Some(key) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key))),
        None => builder.with_no_client_auth(),
    })
}

/// The certificate of `shown`, which everybody can copy from a handshake, with the private key of `held`.
fn copied(shown: &Identity, held: &Identity) -> Arc<CertifiedKey> {
    Arc::new(CertifiedKey::new(shown.certified.cert.clone(), Arc::clone(&held.certified.key)))
}

#[test]
fn the_same_key_is_accepted_both_ways() {
    handshake(ours().client_config(&[b"http/1.1"]).unwrap(), ours().server_config(&[b"http/1.1"]).unwrap()).unwrap();
}

#[test]
fn a_client_refuses_a_server_with_another_key() {
    let (who, why) = handshake(ours().client_config(&[]).unwrap(), other().server_config(&[]).unwrap()).unwrap_err();
    assert_eq!(who, "client");
    assert!(matches!(why, Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)), "{why:?}");
}

#[test]
fn a_server_refuses_a_client_with_another_key() {
    let client = careless(Some(Arc::clone(&other().certified)));
    let (who, why) = handshake(client, ours().server_config(&[]).unwrap()).unwrap_err();
    assert_eq!(who, "server");
    assert!(matches!(why, Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)), "{why:?}");
}

#[test]
fn a_server_refuses_a_client_without_a_certificate() {
    let (who, why) = handshake(careless(None), ours().server_config(&[]).unwrap()).unwrap_err();
    assert_eq!(who, "server");
    assert!(matches!(why, Error::NoCertificatesPresented), "{why:?}");
}

#[test]
fn a_server_refuses_a_copied_certificate() {
    let client = careless(Some(copied(&ours(), &other())));
    let (who, why) = handshake(client, ours().server_config(&[]).unwrap()).unwrap_err();
    assert_eq!(who, "server");
    assert!(matches!(why, Error::InvalidCertificate(CertificateError::BadSignature)), "{why:?}");
}

#[test]
fn a_client_refuses_a_copied_certificate() {
    let mut server = (*ours().server_config(&[]).unwrap()).clone();
    server.cert_resolver = Arc::new(SingleCertAndKey::from(copied(&ours(), &other())));
    let (who, why) = handshake(ours().client_config(&[]).unwrap(), Arc::new(server)).unwrap_err();
    assert_eq!(who, "client");
    assert!(matches!(why, Error::InvalidCertificate(CertificateError::BadSignature)), "{why:?}");
}

#[test]
fn tls_1_2_is_refused() {
    // A ClientHello of TLS 1.2: no supported_versions extension. Written by hand, this build has no TLS 1.2 to send it.
    let extensions: Vec<u8> = [
        &[0x00, 0x0a, 0x00, 0x04, 0x00, 0x02, 0x00, 0x1d][..], // supported_groups: x25519
        &[0x00, 0x0d, 0x00, 0x06, 0x00, 0x04, 0x08, 0x07, 0x04, 0x03][..], // signature_algorithms: ed25519, ecdsa
        &[0x00, 0x17, 0x00, 0x00][..],                         // extended_master_secret
    ]
    .concat();
    let mut body = vec![0x03, 0x03];
    body.extend([7; 32]);
    body.push(0);
    body.extend([0x00, 0x02, 0xc0, 0x2b, 0x01, 0x00]); // ECDHE-ECDSA-AES128-GCM-SHA256, no compression
    body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
    body.extend(extensions);
    let mut hello = vec![0x16, 0x03, 0x01];
    hello.extend(u16::try_from(body.len() + 4).unwrap().to_be_bytes());
    hello.extend([0x01, 0x00]);
    hello.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    hello.extend(body);

    let mut server = ServerConnection::new(ours().server_config(&[]).unwrap()).unwrap();
    server.read_tls(&mut hello.as_slice()).unwrap();
    let why = server.process_new_packets().unwrap_err();
    assert!(matches!(why, Error::PeerIncompatible(_)), "{why:?}");
    let mut answer = Vec::new();
    server.write_tls(&mut answer).unwrap();
    // A fatal alert, protocol_version.
    assert_eq!(answer, [0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 70]);
}

#[test]
fn the_identity_is_the_same_on_every_machine_and_says_nothing_secret() {
    let text = "0123456789abcdef0123456789abcdef";
    assert_eq!(identity(text).spki, identity(text).spki);
    assert_ne!(ours().spki, other().spki);
    // Pinned: a change of this value locks every machine out of every other.
    assert_eq!(format!("{:?}", identity(text)), "Identity(bdc36bd2cee88d37)");
    assert_eq!(format!("{:?}", Key(Zeroizing::new(text.into()))), "Key(redacted)");
}
