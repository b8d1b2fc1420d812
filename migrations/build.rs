//! Rebuilds the crate when a migration is added: the macro that embeds the folder only notices edits.

fn main() {
    println!("cargo:rerun-if-changed=sql");
}
