//! A load balancer on loopback that terminates TLS: its clients begin with a handshake, and its
//! server sees plain TCP.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::pki::Identity;

/// See the module.
pub(crate) struct TlsProxy {
    /// `127.0.0.1:port`
    pub(crate) address: String,
}

impl TlsProxy {
    /// To `host:port`, as this server.
    pub(crate) async fn start(target: &str, identity: &Identity) -> Self {
        let chain = CertificateDer::pem_file_iter(&identity.cert).expect("the certificate");
        let chain = chain.collect::<Result<_, _>>().expect("its chain");
        let key = PrivateKeyDer::from_pem_file(&identity.key).expect("the key");
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions of TLS")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("a certificate with its key");

        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address").to_string();
        let (acceptor, target) = (TlsAcceptor::from(Arc::new(config)), target.to_owned());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (acceptor, target) = (acceptor.clone(), target.clone());
                tokio::spawn(async move {
                    let mut client = acceptor.accept(client).await?;
                    let mut server = TcpStream::connect(&target).await?;
                    copy_bidirectional(&mut client, &mut server).await
                });
            }
        });

        Self { address }
    }
}
