//! The program `outboxd`. All of it is in the library, so that the compiler translates it once: a
//! program that awaits the library's futures would have its own copy of each.

fn main() {
    outboxd::program::main()
}
