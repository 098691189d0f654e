//! `cargo +nightly fuzz run create_words fuzz/corpus/create_words fuzz/seeds/create_words`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Err(broken) = wormhole::cli::fuzz::check(data) {
        panic!("{broken}");
    }
});
