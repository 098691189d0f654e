//! nginx with its stream module.

use super::{Peer, Place, Running, Source, need};
use anyhow::Result;
use std::path::Path;

/// See [`Peer::about`].
pub struct Nginx;

impl Peer for Nginx {
    fn name(&self) -> &'static str {
        "nginx"
    }

    fn about(&self) -> &'static str {
        "stream, worker_processes 2, proxy_half_close left at its default (off)"
    }

    fn source(&self) -> Source {
        Source::Apt("nginx", &["nginx-light", "libnginx-mod-stream"])
    }

    fn start(&self, place: &Place<'_>) -> Result<Running> {
        let config = place.write("nginx.conf", &config(&place.dir, place.head, place.tail))?;
        let prefix = place.dir.as_os_str();
        place.run(self.name(), &need("nginx")?, ["-p".as_ref(), prefix, "-c".as_ref(), config.as_os_str()])
    }
}

fn config(dir: &Path, head: u16, tail: u16) -> String {
    let dir = dir.display();
    format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n\
         daemon off;\nworker_processes 2;\npid {dir}/nginx.pid;\nerror_log stderr;\n\
         events {{ worker_connections 20000; }}\n\
         stream {{ server {{ listen 127.0.0.1:{head} backlog=4096; proxy_pass 127.0.0.1:{tail}; proxy_timeout 10m; }} }}\n"
    )
}
