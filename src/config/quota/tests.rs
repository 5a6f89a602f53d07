use super::*;

#[test]
fn what_is_a_quota() {
    for (rate, burst, made) in [
        (10.0, 20, Ok(())),
        (MIN_RATE, MAX_BURST, Ok(())),
        (MAX_RATE, 1, Ok(())),
        (0.0, 1, Err(QuotaError::Rate)),
        (-1.0, 1, Err(QuotaError::Rate)),
        (f64::NAN, 1, Err(QuotaError::Rate)),
        (f64::INFINITY, 1, Err(QuotaError::Rate)),
        (MIN_RATE / 2.0, 1, Err(QuotaError::Rate)),
        (MAX_RATE * 2.0, 1, Err(QuotaError::Rate)),
        (1.0, MAX_BURST + 1, Err(QuotaError::Burst)),
    ] {
        let burst = NonZeroU32::new(burst).unwrap();
        assert_eq!(Quota::new(rate, burst).map(|_| ()), made, "{rate} {burst}");
    }
}

#[test]
fn an_interval_is_within_its_bounds_for_any_fields() {
    let (nano, day) = (Duration::from_nanos(1), Duration::from_secs(86_400));
    for (rate, interval) in [
        (10.0, Duration::from_millis(100)),
        (0.05, Duration::from_secs(20)),
        (MIN_RATE, Duration::from_secs(10_000)),
        (MAX_RATE, Duration::from_micros(1)),
        (1e300, nano),
        (f64::INFINITY, nano),
        (1e-300, day),
        (0.0, day),
        (f64::NAN, day),
    ] {
        assert_eq!(
            Quota {
                rate,
                burst: NonZeroU32::MIN
            }
            .interval(),
            interval,
            "{rate}"
        );
    }
}

#[test]
fn the_time_to_fill_a_bucket_fits_64_bit_nanoseconds() {
    let burst = NonZeroU32::new(MAX_BURST).unwrap();
    let full = Quota::new(MIN_RATE, burst).unwrap().interval() * MAX_BURST;
    assert!(full.as_nanos() < u128::from(u64::MAX / 2));
}
