use super::*;

/// Permeability constants of the human chorioamnion at term and at 12 to 26 weeks: Hollander and Wolfe, Nonparametric Statistical
/// Methods (1973), p. 69; the example of R's `wilcox.test`.
const TERM: [f64; 10] = [0.80, 0.83, 1.89, 1.04, 1.45, 1.38, 1.91, 1.64, 0.73, 1.46];
const EARLY: [f64; 5] = [1.15, 0.88, 0.90, 0.74, 1.21];

/// Ozone in New York in May and August 1973, from R's `airquality`, without missing days: many equal values.
const MAY: [f64; 26] = [
    41., 36., 12., 18., 28., 23., 19., 8., 7., 16., 11., 14., 18., 14., 34., 6., 30., 11., 1., 11., 4., 32.,
    23., 45., 115., 37.,
];
const AUGUST: [f64; 26] = [
    39., 9., 16., 78., 35., 66., 122., 89., 110., 44., 28., 65., 22., 59., 23., 31., 44., 21., 9., 45., 168.,
    73., 76., 118., 84., 85.,
];

fn close(a: f64, b: f64, tolerance: f64) {
    assert!((a - b).abs() <= tolerance, "{a} is not {b} ± {tolerance}");
}

#[test]
fn quantiles_are_those_of_r() {
    // R: quantile(1:10, c(0, .25, .5, .95, 1)) and quantile(c(3, 1, 2), .5).
    let ten: Vec<f64> = (1..=10).map(f64::from).collect();
    for (q, value) in [(0.0, 1.0), (0.25, 3.25), (0.5, 5.5), (0.95, 9.55), (1.0, 10.0)] {
        close(quantile(&ten, q), value, 1e-12);
    }
    close(median(&[3.0, 1.0, 2.0]), 2.0, 0.0);
    assert_eq!((quantile(&[], 0.5), quantile(&[7.0], 0.99)), (0.0, 7.0));
}

#[test]
fn mean_and_deviation_are_those_of_r() {
    // R: mean and sd of c(2, 4, 4, 4, 5, 5, 7, 9).
    let values = [2., 4., 4., 4., 5., 5., 7., 9.];
    close(mean(&values), 5.0, 1e-12);
    close(deviation(&values), 2.138_089_935, 1e-9);
}

#[test]
fn mann_whitney_is_exact_for_small_samples() {
    // Hollander and Wolfe: W = 35, one-sided p = 0.1272.
    let test = mann_whitney(&TERM, &EARLY);
    assert_eq!(test.u, 35.0);
    close(test.p, 2.0 * 0.1272, 2e-4);
    // SciPy's documentation of mannwhitneyu: U1 = 17, exact p = 0.1111.
    let test = mann_whitney(&[19., 22., 16., 29., 24.], &[20., 11., 17., 12.]);
    assert_eq!(test.u, 17.0);
    close(test.p, 0.111_111_111, 1e-9);
}

#[test]
fn mann_whitney_approximates_with_ties() {
    // R: wilcox.test(Ozone ~ Month, data = airquality, subset = Month %in% c(5, 8)): W = 127.5, p-value = 0.0001208.
    let test = mann_whitney(&MAY, &AUGUST);
    assert_eq!(test.u, 127.5);
    close(test.p, 0.000_120_8, 5e-8);
    // The same the other way round.
    close(mann_whitney(&AUGUST, &MAY).p, test.p, 1e-15);
}

#[test]
fn equal_and_missing_samples_are_no_difference() {
    assert_eq!(mann_whitney(&[1.0; 8], &[1.0; 8]).p, 1.0);
    assert_eq!(mann_whitney(&[], &[1.0]).p, 1.0);
    assert_eq!(cliffs_delta(&[], &[1.0]), 0.0);
    assert_eq!(cliffs_delta(&[1.0; 8], &[1.0; 8]), 0.0);
}

#[test]
fn hodges_lehmann_is_the_shift_of_hollander_and_wolfe() {
    // R: wilcox.test(x, y, conf.int = TRUE): estimate 0.305, 95 percent confidence interval -0.15 to 0.76.
    let shift = hodges_lehmann(&TERM, &EARLY);
    close(shift.value, 0.305, 1e-9);
    close(shift.low, -0.15, 1e-9);
    close(shift.high, 0.76, 1e-9);
}

#[test]
fn cliffs_delta_is_that_of_the_literature() {
    // Example of R's package effsize (from Cliff 1996, p. 129): delta = -0.25, small.
    let treatment = [10., 10., 20., 20., 20., 30., 30., 30., 40., 50.];
    let control = [10., 20., 30., 40., 40., 50.];
    close(cliffs_delta(&treatment, &control), -0.25, 1e-12);
    use crate::model::Magnitude;
    assert_eq!(magnitude(-0.25), Magnitude::Small);
    assert_eq!(magnitude(0.146), Magnitude::Negligible);
    assert_eq!(magnitude(0.4), Magnitude::Medium);
    assert_eq!(magnitude(-1.0), Magnitude::Large);
}

#[test]
fn outliers_are_beyond_tukeys_fences() {
    // R: boxplot.stats(c(1:10, 20))$out is 20.
    let mut values: Vec<f64> = (1..=10).map(f64::from).collect();
    values.push(20.0);
    assert_eq!(outliers(&values), [10]);
    assert!(outliers(&[1.0, 1.0, 100.0]).is_empty());
}

#[test]
fn the_bootstrap_of_a_median_is_efrons_exact_one() {
    // Efron 1979: with n = 2m - 1 distinct values, P(median* > x(k)) = P(Binomial(n, k/n) <= m - 1). The values are 1 to 13, so
    // the ends of the interval are where that chance passes 97.5 % and 2.5 %.
    let values: Vec<f64> = (1..=13).map(f64::from).collect();
    let estimate = Bootstrap::new(1).quantile(&values, 0.5);
    let above = |k: usize| -> f64 {
        let chance = k as f64 / 13.0;
        let mut choose = 1.0;
        (0..7)
            .map(|i| {
                let term = choose * chance.powi(i) * (1.0 - chance).powi(13 - i);
                choose *= f64::from(13 - i) / f64::from(i + 1);
                term
            })
            .sum()
    };
    let low = (1..=13).find(|k| 1.0 - above(*k) >= 0.025).unwrap();
    let high = (1..=13).find(|k| 1.0 - above(*k) >= 0.975).unwrap();
    assert_eq!((estimate.value, estimate.low, estimate.high), (7.0, low as f64, high as f64));
}

#[test]
fn an_interval_covers_the_truth_about_as_often_as_it_says() {
    // Exponential times: the median of the population is ln 2.
    let mut random = Random::new(7);
    let mut draw = || -(1.0 - random.bits() as f64 / 2f64.powi(64)).ln();
    let covered = (0..300)
        .filter(|seed| {
            let values: Vec<f64> = (0..40).map(|_| draw()).collect();
            let estimate = Bootstrap::new(*seed).quantile(&values, 0.5);
            (estimate.low..=estimate.high).contains(&std::f64::consts::LN_2)
        })
        .count();
    assert!((270..=297).contains(&covered), "{covered} of 300 intervals of 95 % cover the median");
}

#[test]
fn a_ratio_keeps_its_seed_and_refuses_zero() {
    let (of, to) = ([20.0, 22.0, 24.0, 21.0, 23.0], [10.0, 11.0, 12.0, 10.5, 11.5]);
    let ratio = Bootstrap::new(3).ratio_of_medians(&of, &to).unwrap();
    close(ratio.value, 2.0, 1e-12);
    assert!(ratio.low >= 20.0 / 12.0 && ratio.low <= 2.0 && ratio.high >= 2.0 && ratio.high <= 2.4);
    assert_eq!(Bootstrap::new(3).ratio_of_medians(&of, &to).unwrap(), ratio);
    assert!(Bootstrap::new(3).ratio_of_medians(&of, &[0.0]).is_none());
    assert!(Bootstrap::new(3).ratio_of_medians(&[], &to).is_none());
}

#[test]
fn a_shuffle_is_fair_and_repeats() {
    let mut counts = [[0_u32; 3]; 3];
    let mut random = Random::new(5);
    for _ in 0..6000 {
        let mut items = [0, 1, 2];
        random.shuffle(&mut items);
        for (place, item) in items.into_iter().enumerate() {
            counts[place][item] += 1;
        }
    }
    assert!(counts.iter().flatten().all(|count| (1850..=2150).contains(count)), "{counts:?}");
    let order = |seed| {
        let mut items: Vec<u8> = (0..20).collect();
        Random::new(seed).shuffle(&mut items);
        items
    };
    assert_eq!(order(9), order(9));
    assert_ne!(order(9), order(10));
}

#[test]
fn the_least_p_is_that_of_samples_without_overlap() {
    for (n, m) in [(1, 1), (2, 3), (3, 3), (4, 4), (10, 7)] {
        let low: Vec<f64> = (0..n).map(f64::from).collect();
        let high: Vec<f64> = (0..m).map(|value| f64::from(value) + 100.0).collect();
        let p = mann_whitney(&low, &high).p;
        assert!((least_p(low.len(), high.len()) - p).abs() < 1e-12, "{n} and {m}: {p}");
    }
    assert_eq!(least_p(0, 3), 1.0);
    assert!(least_p(3, 3) > 0.09 && least_p(1000, 1000) < 1e-100);
}

#[test]
fn starts_of_one_round_are_resampled_together() {
    // Five rounds of four equal starts say as much as five starts.
    let rounds: Vec<(f64, usize)> =
        (0..20).map(|start| (f64::from(100 + start / 4 * 10), start as usize / 4)).collect();
    let of = Rounds::of(&rounds);
    assert_eq!(of.medians(), [100.0, 110.0, 120.0, 130.0, 140.0]);
    let values = of.values();
    let apart = Bootstrap::new(1).quantile(&values, 0.5);
    let together = Bootstrap::new(1).quantile_of(&of, 0.5);
    assert_eq!((together.value, apart.value), (120.0, 120.0));
    assert!(together.high - together.low > apart.high - apart.low, "{together:?}, {apart:?}");
    let five = Bootstrap::new(1).quantile(&of.medians(), 0.5);
    assert_eq!((together.low, together.high), (five.low, five.high));
    let ratio = Bootstrap::new(1).ratio_of(&of, &of).unwrap();
    assert!(ratio.value == 1.0 && ratio.low < 0.85 && ratio.high > 1.17, "{ratio:?}");
    // One start a round is as before, for the same seed.
    let single: Vec<(f64, usize)> = values.iter().copied().zip(7..).collect();
    assert_eq!(
        Bootstrap::new(3).quantile_of(&Rounds::of(&single), 0.9),
        Bootstrap::new(3).quantile(&values, 0.9)
    );
    assert_eq!(Bootstrap::new(1).quantile_of(&Rounds::of(&[]), 0.5).value, 0.0);
}
