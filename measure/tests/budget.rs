//! A budget that does not limit what it is about is no budget.

mod fixture;

use rkvm_measure::budget::{Budget, check};
use rkvm_measure::model::Missing;
use rkvm_measure::summary::summarize;

#[test]
fn a_budget_limits_all_that_it_is_about() {
    let mut report = fixture::report();
    let mut said = |text: &str, missing: &[&str]| {
        let budgets = [text.parse::<Budget>().unwrap()];
        let because = |id: &&str| Missing { id: (*id).to_owned(), reason: "there is no KVM".to_owned() };
        report.missing = missing.iter().map(because).collect();
        report.summary = summarize(&report, &budgets);
        check(&budgets, &report).map_err(|error| error.to_string())
    };
    said("p95=10s", &[]).unwrap();
    said("vm:p95=10s", &["docker"]).unwrap();
    // One of the two alone would be judged.
    let error = said("p95=10s", &["vm"]).unwrap_err();
    assert!(error.contains("vm was not measured: there is no KVM; leave it out with --isolation"), "{error}");
    let error = said("docker:p95=10s", &["docker"]).unwrap_err();
    assert!(error.contains("docker was not measured: there is no KVM"), "{error}");
    let error = said("foo:p95=1ms", &[]).unwrap_err();
    assert!(error.contains("foo was not measured; there are "), "{error}");
}
