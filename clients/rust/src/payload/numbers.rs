//! Doubles, compared with `JSON.stringify` of Node.
//!
//! 100,000 values follow from a fixed seed. `NODES` is a digest of what Node wrote for them, so the
//! comparison happens on machines without Node as well. Where Node is on the path, the test asks it
//! again and names the first value that differs.

use std::io::Write as _;
use std::process::{Command, Stdio};

use super::{Json, write_double};

const VALUES: usize = 100_000;
/// Digest of Node's 100,000 lines, made by Node 20.20.2.
const NODES: u64 = 10_200_210_170_135_383_241;
/// Reads the bits of a double from each line, in hex, and writes its JSON.
const SCRIPT: &str = r#"
    const bits = new DataView(new ArrayBuffer(8));
    const lines = require('fs').readFileSync(0, 'latin1').trim().split('\n');
    process.stdout.write(lines.map((line) => {
        bits.setBigUint64(0, BigInt('0x' + line));
        return JSON.stringify(bits.getFloat64(0)) + '\n';
    }).join(''));
"#;

/// Where the notation changes, and where digits are easily lost. Written by Node.
const EDGES: &[(f64, &str)] = &[
    (0.0, "0"),
    (-0.0, "0"),
    (1.0, "1"),
    (-1.0, "-1"),
    (0.1, "0.1"),
    (0.5, "0.5"),
    (-2.5, "-2.5"),
    (1.5e300, "1.5e+300"),
    (3e9, "3000000000"),
    (2147483647.0, "2147483647"),
    (2147483648.0, "2147483648"),
    (4294967296.0, "4294967296"),
    (1700000000000.0, "1700000000000"),
    (9007199254740991.0, "9007199254740991"),
    (9007199254740992.0, "9007199254740992"),
    (9007199254740994.0, "9007199254740994"),
    (9223372036854775807.0, "9223372036854776000"),
    (18446744073709551616.0, "18446744073709552000"),
    (123456789012345680000.0, "123456789012345680000"),
    (999999999999999900000.0, "999999999999999900000"),
    (1e20, "100000000000000000000"),
    (1e21, "1e+21"),
    (-1e21, "-1e+21"),
    (1.2e21, "1.2e+21"),
    (1e22, "1e+22"),
    (1e23, "1e+23"),
    (1e100, "1e+100"),
    (0.000001, "0.000001"),
    (0.0000012, "0.0000012"),
    (0.00000123456789, "0.00000123456789"),
    (0.0000001, "1e-7"),
    (0.00000012, "1.2e-7"),
    (9.999999999999997e-7, "9.999999999999997e-7"),
    (5e-324, "5e-324"),
    (2.2250738585072014e-308, "2.2250738585072014e-308"),
    (f64::MAX, "1.7976931348623157e+308"),
    (f64::MIN, "-1.7976931348623157e+308"),
    (0.1 + 0.2, "0.30000000000000004"),
    (1.0 / 3.0, "0.3333333333333333"),
    (100.0 / 3.0, "33.333333333333336"),
    (19.99, "19.99"),
    (1.7e-10, "1.7e-10"),
];

fn written(number: f64) -> String {
    let mut out = Json::new(0, usize::MAX);
    write_double(&mut out, number).expect("a finite number");
    String::from_utf8(out.bytes).expect("digits")
}

/// Doubles as writers have them, and doubles of any bits.
fn values() -> Vec<f64> {
    let mut state = 0x006f_7574_626f_7864_u64;
    let mut next = move || {
        // SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    };

    let mut values: Vec<f64> = EDGES.iter().map(|(number, _)| *number).collect();
    for power in -323..=308 {
        let number: f64 = format!("1e{power}").parse().expect("a number");
        values.extend([number, number.next_down(), number.next_up(), -number]);
    }

    while values.len() < VALUES {
        let (bits, kind) = (next(), next() % 6);
        let whole = |bits: u64| (bits >> 1) as f64;
        let number = match kind {
            0 | 1 => f64::from_bits(bits),
            // Whole numbers of every length, as `Date.now()` and counters are.
            2 => whole(bits >> (next() % 63)),
            3 => -whole(bits >> (next() % 63)),
            // Amounts and measures: few digits behind the point.
            4 => whole(bits >> (20 + next() % 43)) / 10_f64.powi((next() % 9) as i32),
            // Near the places where the notation changes.
            _ => {
                [1e21, 1e-6, 1e-7][(bits % 3) as usize]
                    * (0.5 + (bits >> 11) as f64 / (1_u64 << 53) as f64)
            }
        };
        values.extend(Some(number).filter(|number| number.is_finite()));
    }

    values.truncate(VALUES);
    values
}

/// What Node writes for these, or `None` without Node.
fn by_node(values: &[f64]) -> Option<Vec<String>> {
    let node = Command::new("node")
        .args(["-e", SCRIPT])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .ok();

    let Some(mut node) = node else {
        println!("`node` is not on the path: only the digest of its output was compared");
        return None;
    };

    let lines: String = values.iter().map(|n| format!("{:016x}\n", n.to_bits())).collect();
    node.stdin.take().expect("a pipe").write_all(lines.as_bytes()).expect("node reads");

    let output = node.wait_with_output().expect("node ends");
    assert!(output.status.success(), "node failed: {}", output.status);
    let text = String::from_utf8(output.stdout).expect("text");
    Some(text.lines().map(str::to_owned).collect())
}

/// FNV-1a.
fn digest(lines: &[String]) -> u64 {
    let bytes = lines.iter().flat_map(|line| line.bytes().chain([b'\n']));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[test]
fn edge_values_are_written_as_node_writes_them() {
    for (number, text) in EDGES {
        assert_eq!(written(*number), *text, "{number:e}");
    }
}

#[test]
fn a_hundred_thousand_values_are_written_as_node_writes_them() {
    let values = values();
    let ours: Vec<_> = values.iter().map(|number| written(*number)).collect();

    if let Some(theirs) = by_node(&values) {
        assert_eq!(theirs.len(), VALUES, "Node answered each value");
        for ((number, ours), theirs) in values.iter().zip(&ours).zip(&theirs) {
            assert_eq!(ours, theirs, "{:016x}", number.to_bits());
        }
        assert_eq!(digest(&theirs), NODES, "Node's digest; did the values change?");
    }

    assert_eq!(digest(&ours), NODES, "put `node` on the path to learn which value differs");

    for (number, ours) in values.iter().zip(&ours) {
        assert_eq!(ours.parse::<f64>().expect("a number"), *number, "{ours} names the same number");
    }
}
