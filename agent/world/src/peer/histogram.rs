//! A histogram of durations, exact to one part in 128.

use std::time::Duration;

const PRECISION_BITS: u32 = 7;
const STEPS: usize = 1 << PRECISION_BITS;

/// Durations by nanoseconds: below 128 each its own bucket, above that 128 buckets for each power of two.
#[derive(Clone, Debug)]
pub(super) struct Histogram {
    buckets: Vec<u32>,
    count: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: vec![0; (64 - PRECISION_BITS as usize + 1) * STEPS],
            count: 0,
        }
    }
}

impl Histogram {
    pub(super) fn record(&mut self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let bucket = &mut self.buckets[bucket_of(nanos)];
        *bucket = bucket.saturating_add(1);
        self.count += 1;
    }

    /// The duration that this share (0 to 1) of all do not exceed; zero if there are none.
    pub(super) fn quantile(&self, share: f64) -> Duration {
        let wanted = ((self.count as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        let bucket = self.buckets.iter().position(|&count| {
            seen += u64::from(count);
            seen >= wanted
        });
        Duration::from_nanos(bucket.map_or(0, highest_of))
    }
}

fn bucket_of(nanos: u64) -> usize {
    let power = nanos
        .checked_ilog2()
        .unwrap_or(0)
        .saturating_sub(PRECISION_BITS);
    if nanos < STEPS as u64 {
        return nanos as usize;
    }
    let step = (nanos >> power) as usize - STEPS;
    (power as usize + 1) * STEPS + step
}

fn highest_of(bucket: usize) -> u64 {
    if bucket < STEPS {
        return bucket as u64;
    }
    let power = bucket / STEPS - 1;
    let lowest = ((STEPS + bucket % STEPS) as u64) << power;
    lowest + ((1 << power) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_in_order_and_precise() {
        for nanos in [
            0,
            1,
            127,
            128,
            129,
            255,
            256,
            1_000,
            999_999,
            1 << 40,
            u64::MAX,
        ] {
            let highest = highest_of(bucket_of(nanos));
            assert!(highest >= nanos, "{nanos}");
            assert!(
                highest - nanos <= nanos / STEPS as u64,
                "{nanos}: {highest}"
            );
        }
    }

    #[test]
    fn quantiles_are_those_of_the_durations() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), Duration::ZERO);
        for micros in 1..=1_000 {
            histogram.record(Duration::from_micros(micros));
        }
        let within = |share, micros: f64| {
            let found = histogram.quantile(share).as_secs_f64() * 1e6;
            assert!((found / micros - 1.0).abs() < 0.01, "{share}: {found}");
        };
        within(0.5, 500.0);
        within(0.99, 990.0);
        within(1.0, 1_000.0);
    }
}
