//! stub
pub struct Embedded {
    pub version: String,
}
pub fn embedded() -> Option<Embedded> {
    None
}
