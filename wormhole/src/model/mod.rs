//! The words that all rooms share: what is asked for ([`Spec`]), what is observed ([`SegmentView`], [`StatusView`]),
//! why it failed ([`Failure`]), and what a controller can be asked to do ([`Control`]). Types only, no logic beyond
//! parsing and printing one URL.

mod control;
mod failure;
mod run;
mod spec;
mod url;
mod view;

pub use control::{Control, ControlFuture};
pub use failure::{Failure, FailureKind};
pub use run::{Health, Mount, MountKind, RunError, RunSpec};
pub(crate) use spec::is_segment_id;
pub use spec::{End, Link, Mode, Options, Place, SegmentId, Spec, Via};
pub use url::{Host, NsRef, Proto, Url, UrlError};
pub(crate) use url::{is_container, is_host_name};
pub use view::{
    BuildInfo, Bytes, ConnectionView, Connections, CreateReply, CreateRequest, DockerView, FastpathView, LimitsView, PairsView,
    PingReply, PingRequest, ProbeView, SegmentView, State, StatusView,
};
