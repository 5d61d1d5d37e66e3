//! Doubles numbers.

#![forbid(unsafe_code)]

fn main() {
    for word in std::env::args().skip(1) {
        let value: u64 = word.parse().expect("a number");
        println!("{}", itoa::Buffer::new().format(value * 2));
    }
}
