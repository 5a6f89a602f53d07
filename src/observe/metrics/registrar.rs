//! Makes and registers metrics.
//!
//! Invariant: every metric made here is in the registry.

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::{
    Counter, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry,
};

use super::Route;
use super::codes::Codes;

/// Names and labels are constants; a wrong one fails the first test.
const VALID: &str = "metric names and labels are valid and used once";

/// Makes metrics in a registry.
pub(super) struct Registrar<'r>(pub(super) &'r Registry);

impl Registrar<'_> {
    /// Registers a metric, and returns a handle that shares its values.
    fn register<C: Collector + Clone + 'static>(&self, made: Result<C, prometheus::Error>) -> C {
        let collector = made.expect(VALID);
        // A clone shares the values; the registry keeps one, the code the other.
        self.0.register(Box::new(collector.clone())).expect(VALID);
        collector
    }

    /// The version, and the process as the kernel sees it.
    pub(super) fn process(&self) {
        let info = Opts::new(
            "wawp_gateway_build_info",
            "Always 1; the label is the version that runs.",
        );
        let info = info.const_label("version", env!("CARGO_PKG_VERSION"));
        self.register(Gauge::with_opts(info)).set(1.0);
        if cfg!(target_os = "linux") {
            let process = ProcessCollector::for_self();
            self.0.register(Box::new(process)).expect(VALID);
        }
    }

    pub(super) fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.register(IntCounter::new(name, help))
    }

    pub(super) fn float_counter(&self, name: &str, help: &str) -> Counter {
        self.register(Counter::new(name, help))
    }

    pub(super) fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.register(IntCounterVec::new(Opts::new(name, help), labels))
    }

    /// Counters by route and status code.
    pub(super) fn by_code(&self, name: &str, help: &str) -> [Codes; 2] {
        let vec = self.counters(name, help, &["route", "code"]);
        Route::ALL.map(|route| Codes::new(vec.clone(), route))
    }

    pub(super) fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.register(IntGauge::new(name, help))
    }

    pub(super) fn float_gauge(&self, name: &str, help: &str) -> Gauge {
        self.register(Gauge::new(name, help))
    }

    pub(super) fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.register(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    pub(super) fn float_gauges(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        self.register(GaugeVec::new(Opts::new(name, help), labels))
    }

    pub(super) fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.register(Histogram::with_opts(options))
    }

    pub(super) fn histograms(
        &self,
        name: &str,
        help: &str,
        buckets: &[f64],
        labels: &[&str],
    ) -> HistogramVec {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.register(HistogramVec::new(options, labels))
    }

    /// Histograms by route.
    pub(super) fn by_route(&self, name: &str, help: &str, buckets: &[f64]) -> [Histogram; 2] {
        let vec = self.histograms(name, help, buckets, &["route"]);
        Route::ALL.map(|route| vec.with_label_values(&[route.as_str()]))
    }
}
