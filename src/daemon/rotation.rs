//! Rotation of secrets: watches the files that the settings name.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::{Config, NamedFile, Sources};

/// How often the files are read. A secret usually stays valid for a while after its successor is in
/// place.
const LOOK: Duration = Duration::from_secs(5);

/// Waits until a named file has other content and the configuration loads with it; then ends
/// `turn` and returns the new configuration. `None` when `turn` ended otherwise.
pub(super) async fn rotated(
    config: Config,
    sources: Sources,
    turn: CancellationToken,
) -> Option<Config> {
    let (config, sources) = (Arc::new(config), Arc::new(sources));
    // Files that were reported as unusable, so that each content is reported once.
    let mut rejected = Vec::new();

    loop {
        tokio::select! {
            () = turn.cancelled() => return None,
            () = tokio::time::sleep(LOOK), if config.names_files() => {}
        }

        // A volume that hangs holds up this task and no other.
        let (named, sources) = (config.clone(), sources.clone());
        let looked = spawn_blocking(move || match named.rotated() {
            rotated if rotated.is_empty() => None,
            rotated => Some((Config::load(&sources), rotated)),
        });

        let looked = tokio::select! {
            () = turn.cancelled() => return None,
            looked = looked => looked.ok()?,
        };

        match looked {
            None => rejected.clear(),
            Some((Ok(loaded), rotated)) => {
                info!(files = shown(&rotated), "secrets changed: reconnecting");
                turn.cancel();
                return Some(loaded);
            }
            Some((Err(error), rotated)) if rotated != rejected => {
                let files = shown(&rotated);
                warn!(error = %error.report(), files, "secrets changed, but cannot be used: keeping the old ones");
                rejected = rotated;
            }
            Some((Err(_), _)) => {}
        }
    }
}

fn shown(files: &[NamedFile]) -> String {
    files.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
