//! A TCP proxy on loopback that does to connections what networks do.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// What happens to the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Toxic {
    /// They pass.
    None,
    /// What the server says doesn't reach the client, who doesn't learn of it.
    NoReplies,
    /// Nothing passes, and nobody learns of it.
    BlackHole,
    /// What the server says takes 300 ms.
    Slow,
    /// What the server says takes 4 ms, as from another region.
    Far,
}

const SLOW: Duration = Duration::from_millis(300);
const FAR: Duration = Duration::from_millis(4);

struct Shared {
    target: String,
    toxic: AtomicU8,
    changed: Notify,
    /// Ends every connection there is.
    cut: Notify,
    closed: Notify,
    /// Chunks that were held back or delayed.
    harmed: AtomicU64,
    cuts: AtomicU64,
}

/// See the module.
#[derive(Clone)]
pub(crate) struct Proxy {
    /// `127.0.0.1:port`
    pub(crate) address: String,
    shared: Arc<Shared>,
}

impl Proxy {
    /// To `host:port`.
    pub(crate) async fn start(target: &str) -> Self {
        Self::at("127.0.0.1:0", target).await
    }

    /// The same, listening on this address.
    pub(crate) async fn at(address: &str, target: &str) -> Self {
        let listener = TcpListener::bind(address).await.expect("a free port");
        let address = listener.local_addr().expect("its address").to_string();
        let shared = Arc::new(Shared {
            target: target.to_owned(),
            toxic: AtomicU8::new(Toxic::None as u8),
            changed: Notify::new(),
            cut: Notify::new(),
            closed: Notify::new(),
            harmed: AtomicU64::new(0),
            cuts: AtomicU64::new(0),
        });
        let (accepting, stopped) = (shared.clone(), shared.clone());
        let proxy = Self { address, shared };
        tokio::spawn(async move {
            let accept = async {
                while let Ok((client, _)) = listener.accept().await {
                    tokio::spawn(pass(accepting.clone(), client));
                }
            };
            tokio::select! {
                () = accept => {}
                () = stopped.closed.notified() => {}
            }
        });
        proxy
    }

    /// From now on its address refuses connections, and those there are end.
    pub(crate) async fn close(&self) {
        self.shared.closed.notify_one();
        self.reset();
        while TcpStream::connect(&self.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    }

    /// From now on, for the connections there are too.
    pub(crate) fn set(&self, toxic: Toxic) {
        self.shared.toxic.store(toxic as u8, Ordering::SeqCst);
        self.shared.changed.notify_waiters();
    }

    /// Resets every connection there is.
    pub(crate) fn reset(&self) {
        self.shared.cut.notify_waiters();
    }

    /// How often something was held back, delayed or cut.
    pub(crate) fn harmed(&self) -> u64 {
        self.shared.harmed.load(Ordering::SeqCst) + self.shared.cuts.load(Ordering::SeqCst)
    }
}

async fn pass(shared: Arc<Shared>, client: TcpStream) {
    let Ok(server) = TcpStream::connect(&shared.target).await else {
        return;
    };
    for stream in [&client, &server] {
        let _ = stream.set_nodelay(true);
    }
    let (client_in, client_out) = client.into_split();
    let (server_in, server_out) = server.into_split();
    tokio::select! {
        () = copy(&shared, client_in, server_out, false) => {}
        () = copy(&shared, server_in, client_out, true) => {}
        () = shared.cut.notified() => {
            shared.cuts.fetch_add(1, Ordering::SeqCst);
        }
    }
}

async fn copy(shared: &Shared, mut from: OwnedReadHalf, mut to: OwnedWriteHalf, is_reply: bool) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut bytes).await {
        if !admit(shared, is_reply).await || to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}

/// Waits until the bytes may pass.
async fn admit(shared: &Shared, is_reply: bool) -> bool {
    let mut harmed = false;
    loop {
        let changed = shared.changed.notified();
        let toxic = shared.toxic.load(Ordering::SeqCst);
        let held = toxic == Toxic::BlackHole as u8 || (toxic == Toxic::NoReplies as u8 && is_reply);
        if !held {
            if toxic == Toxic::Slow as u8 && is_reply {
                shared.harmed.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(SLOW).await;
            }
            if toxic == Toxic::Far as u8 && is_reply {
                tokio::time::sleep(FAR).await;
            }
            return true;
        }
        if !harmed {
            shared.harmed.fetch_add(1, Ordering::SeqCst);
            harmed = true;
        }
        changed.await;
    }
}
