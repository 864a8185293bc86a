//! Counting what test harnesses say.

use std::ops::AddAssign;

/// How many tests ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) passed: u64,
    pub(super) failed: u64,
    pub(super) ignored: u64,
    pub(super) filtered: u64,
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
        self.filtered += other.filtered;
    }
}

impl Totals {
    /// Sums every `test result:` line of `output`. Nothing if there is none: the harness did not end by itself.
    pub(super) fn of(output: &str) -> Option<Self> {
        let mut sum = None;
        for result in output
            .lines()
            .filter_map(|line| line.strip_prefix("test result: "))
        {
            let (_, counts) = result.split_once(". ")?;
            let total = sum.get_or_insert_with(Self::default);
            for count in counts.split("; ") {
                let Some((number, what)) = count.split_once(' ') else {
                    continue;
                };
                let Ok(number) = number.parse::<u64>() else {
                    continue;
                };
                match what {
                    "passed" => total.passed += number,
                    "failed" => total.failed += number,
                    "ignored" => total.ignored += number,
                    "filtered out" => total.filtered += number,
                    _ => {}
                }
            }
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::Totals;

    #[test]
    fn sums_the_results_of_several_harnesses() {
        let output = "running 3 tests\ntest a ... ok\n\n\
            test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.00s\n\n\
            test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.20s\n";
        let expected = Totals {
            passed: 4,
            failed: 2,
            ignored: 1,
            filtered: 7,
        };
        assert_eq!(Totals::of(output), Some(expected));
    }

    #[test]
    fn a_harness_that_died_has_no_result() {
        assert_eq!(Totals::of("running 3 tests\ntest a ... ok\n"), None);
    }
}
