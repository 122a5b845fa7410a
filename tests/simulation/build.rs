//! Lets libraries that look functions of the C library up by name find those that `process.rs` puts in their place.

fn main() {
    println!("cargo:rustc-link-arg-bins=-rdynamic");
    println!("cargo:rerun-if-changed=build.rs");
}
