//! The program `outboxd`. All of it is in the library, so that the compiler translates it once: a
//! program that awaits the library's futures would have its own copy of each.

/// The relay allocates a few times per event. With glibc's allocator, a drain takes a third to a half
/// more processor time.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() {
    outboxd::program::main()
}
