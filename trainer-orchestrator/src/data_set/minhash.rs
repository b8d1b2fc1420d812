//! Near-duplicates of what judges, found among what trains.
//!
//! MinHash over sets of shingles, as datasketch defines it (Zhu et al., `datasketch.MinHash`, whose releases since 2.0
//! call it the scheme `legacy`): 128 permutations `((a x + b) mod 2^64) mod (2^61 - 1) mod 2^32` of 32-bit hashes, and
//! locality-sensitive hashing over bands of the signature. What the bands find is compared exactly, so that chance can
//! miss a near-duplicate (one in a hundred at a similarity of 0.7, fewer above) and never invent one.
//!
//! What trains is many, what judges is few. A set can only be similar to one of the few if enough of it lies in their
//! union: Jaccard(A, B) >= t needs |A and B| >= t |A|. That rules nearly all of the many out before any permutation is
//! computed, and loses nothing.

use std::collections::{HashMap, HashSet};

/// Permutations.
pub const PERMUTATIONS: usize = 128;
/// Bands of a signature; what is left of it is in none.
pub const BANDS: usize = 25;
/// Numbers in a band.
pub const ROWS: usize = 5;
const MERSENNE_PRIME: u64 = (1 << 61) - 1;

/// The permutations: those that datasketch takes as its argument `permutations`.
#[derive(Debug, Clone)]
pub struct MinHash {
    /// From 1 to the prime less 1.
    pub a: [u64; PERMUTATIONS],
    /// From 0 to the prime less 1.
    pub b: [u64; PERMUTATIONS],
}

/// SplitMix64 (Steele, Lea and Flood 2014).
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut value = *state;
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// `value` modulo the prime, without a division.
const fn modulo(value: u64) -> u64 {
    let folded = (value & MERSENNE_PRIME) + (value >> 61);
    if folded >= MERSENNE_PRIME { folded - MERSENNE_PRIME } else { folded }
}

impl MinHash {
    /// Permutations that depend on `seed` alone.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut state = seed;
        let mut permutations = Self { a: [0; PERMUTATIONS], b: [0; PERMUTATIONS] };
        for (a, b) in permutations.a.iter_mut().zip(&mut permutations.b) {
            *a = next_random(&mut state) % (MERSENNE_PRIME - 1) + 1;
            *b = next_random(&mut state) % MERSENNE_PRIME;
        }
        permutations
    }

    /// The signature of a set.
    #[must_use]
    pub fn signature(&self, shingles: &[u32]) -> [u32; PERMUTATIONS] {
        let mut least = [u32::MAX; PERMUTATIONS];
        for shingle in shingles {
            let value = u64::from(*shingle);
            for ((least, a), b) in least.iter_mut().zip(&self.a).zip(&self.b) {
                let permuted = modulo(a.wrapping_mul(value).wrapping_add(*b)) as u32;
                *least = permuted.min(*least);
            }
        }
        least
    }
}

impl Default for MinHash {
    fn default() -> Self {
        Self::new(1)
    }
}

/// One key of every band of a signature.
fn bands(signature: &[u32; PERMUTATIONS]) -> impl Iterator<Item = (usize, [u32; ROWS])> {
    let rows = signature.as_chunks::<ROWS>().0.iter().take(BANDS).copied();
    rows.enumerate()
}

/// Whether two sets, sorted, have at least this Jaccard similarity.
pub(crate) fn are_similar(one: &[u32], other: &[u32], permille: u32) -> bool {
    let (mut left, mut right, mut common) = (0, 0, 0);
    while let (Some(a), Some(b)) = (one.get(left), other.get(right)) {
        left += usize::from(a <= b);
        right += usize::from(b <= a);
        common += usize::from(a == b);
    }
    let all = one.len() + other.len() - common;
    common * 1000 >= all * permille as usize
}

/// The shingles of the few. Those that are asked about are many and mostly none of them, which one bit says; what a bit
/// promises is looked up.
struct Union {
    bits: Vec<u64>,
    /// Bits of a hash that choose no place in `bits`.
    shift: u32,
    all: HashSet<u32>,
}

impl Union {
    fn of(sets: &[&[u32]]) -> Self {
        let all: HashSet<u32> = sets.iter().flat_map(|set| set.iter().copied()).collect();
        // With sixteen bits for each, one of sixteen others shares a bit with one of them.
        let width = (all.len().max(4) * 16).next_power_of_two().ilog2().min(u32::BITS);
        let mut union = Self { bits: vec![0; 1 << (width - u64::BITS.ilog2())], shift: u32::BITS - width, all };
        for shingle in &union.all {
            let (word, bit) = Self::place(union.shift, *shingle);
            union.bits[word] |= bit;
        }
        union
    }

    /// A word and a bit of it, by the leading bits of a product (Knuth's multiplicative hashing).
    fn place(shift: u32, shingle: u32) -> (usize, u64) {
        let place = shingle.wrapping_mul(0x9e37_79b1) >> shift;
        ((place / u64::BITS) as usize, 1_u64 << (place % u64::BITS))
    }

    fn contains(&self, shingle: u32) -> bool {
        let (word, bit) = Self::place(self.shift, shingle);
        self.bits[word] & bit != 0 && self.all.contains(&shingle)
    }

    /// Whether at least so many thousandths of a set lie in it.
    fn holds(&self, set: &[u32], permille: u32) -> bool {
        // So many may be missing: most sets are ruled out by the first few.
        let mut room = set.len() * 1000_usize.saturating_sub(permille as usize) / 1000;
        for shingle in set {
            if !self.contains(*shingle) {
                match room.checked_sub(1) {
                    Some(left) => room = left,
                    None => return false,
                }
            }
        }
        true
    }
}

/// For each of `few`, whether one of `many` is at least so similar, in thousandths. Sets are sorted. With 0 nothing is.
/// Equal ones of `few` are looked for once, and what is found is looked for no more: where many are the same, each of
/// `many` would else be compared with all of them.
#[must_use]
pub fn have_near_duplicates<'a>(few: &[&[u32]], many: impl Iterator<Item = &'a [u32]>, permille: u32) -> Vec<bool> {
    if permille == 0 || few.is_empty() {
        return vec![false; few.len()];
    }
    let mut distinct: Vec<&[u32]> = Vec::with_capacity(few.len());
    let mut known: HashMap<&[u32], usize> = HashMap::with_capacity(few.len());
    let numbers: Vec<usize> = few
        .iter()
        .copied()
        .map(|shingles| {
            *known.entry(shingles).or_insert_with(|| {
                distinct.push(shingles);
                distinct.len() - 1
            })
        })
        .collect();
    let mut found = vec![false; distinct.len()];
    let permutations = MinHash::default();
    let union = Union::of(&distinct);
    let mut index: HashMap<(usize, [u32; ROWS]), Vec<usize>> = HashMap::new();
    for (number, shingles) in distinct.iter().enumerate() {
        for key in bands(&permutations.signature(shingles)) {
            index.entry(key).or_default().push(number);
        }
    }
    for shingles in many {
        if !union.holds(shingles, permille) {
            continue;
        }
        for key in bands(&permutations.signature(shingles)) {
            let Some(waiting) = index.get_mut(&key) else { continue };
            waiting.retain(|number| {
                found[*number] = found[*number] || are_similar(distinct[*number], shingles, permille);
                !found[*number]
            });
        }
    }
    numbers.into_iter().map(|number| found[number]).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_prime_is_taken_without_a_division() {
        for value in [0, 1, MERSENNE_PRIME - 1, MERSENNE_PRIME, MERSENNE_PRIME + 1, u64::MAX, u64::MAX - 7] {
            assert_eq!(modulo(value), value % MERSENNE_PRIME);
        }
    }

    #[test]
    fn similarity_is_exact_at_the_threshold() {
        let ten: Vec<u32> = (0..10).collect();
        assert!(are_similar(&ten, &ten[..7], 700) && !are_similar(&ten, &ten[..6], 700));
        assert!(are_similar(&ten, &ten, 1000) && !are_similar(&ten, &ten[1..], 1000));
        assert!(!are_similar(&ten, &[20, 30], 1));
    }

    proptest! {
        #[test]
        fn a_union_holds_what_counting_says(
            sets in prop::collection::vec(prop::collection::btree_set(0..400_u32, 0..60), 0..6),
            asked in prop::collection::btree_set(0..400_u32, 0..60),
            permille in 1..=1000_u32,
        ) {
            // Small numbers and others.
            let spread = |number: &u32| number.wrapping_mul(if number.is_multiple_of(2) { 1 } else { 0x01a5_73c9 });
            let sets: Vec<Vec<u32>> = sets.iter().map(|set| set.iter().map(spread).collect()).collect();
            let asked: Vec<u32> = asked.iter().map(spread).collect();
            let union = Union::of(&sets.iter().map(Vec::as_slice).collect::<Vec<_>>());
            let inside = asked.iter().filter(|shingle| sets.iter().any(|set| set.contains(*shingle))).count();
            prop_assert_eq!(union.holds(&asked, permille), inside * 1000 >= asked.len() * permille as usize);
        }

        #[test]
        fn signatures_estimate_similarity(shared in 1..200_u32, own in 0..100_u32, other in 0..100_u32) {
            // Hashes as text gives them, spread over all numbers.
            let spread = |number: u32| next_random(&mut u64::from(number)) as u32;
            let one: Vec<u32> = (0..shared + own).map(spread).collect();
            let two: Vec<u32> = (0..shared).chain(1000..1000 + other).map(spread).collect();
            let permutations = MinHash::default();
            let (left, right) = (permutations.signature(&one), permutations.signature(&two));
            let equal = left.iter().zip(&right).filter(|(left, right)| left == right).count();
            let jaccard = f64::from(shared) / f64::from(shared + own + other);
            // Five standard deviations of 128 draws.
            let bound = 5.0 * (jaccard * (1.0 - jaccard) / 128.0).sqrt() + 0.02;
            prop_assert!((equal as f64 / 128.0 - jaccard).abs() <= bound);
        }

        #[test]
        fn what_is_found_is_near_and_what_is_equal_is_found(
            few in prop::collection::vec(prop::collection::btree_set(0..40_u32, 1..20), 0..12),
            many in prop::collection::vec(prop::collection::btree_set(0..40_u32, 1..20), 0..12),
            permille in 1..=1000_u32,
        ) {
            let list = |sets: &[std::collections::BTreeSet<u32>]| -> Vec<Vec<u32>> {
                sets.iter().map(|set| set.iter().copied().collect()).collect()
            };
            let (few, many) = (list(&few), list(&many));
            // Each twice: equal ones are found together.
            let few: Vec<&[u32]> = few.iter().chain(&few).map(Vec::as_slice).collect();
            let found = have_near_duplicates(&few, many.iter().map(Vec::as_slice), permille);
            for (set, found) in few.iter().zip(&found) {
                let is_near = many.iter().any(|other| are_similar(set, other, permille));
                prop_assert!(!found || is_near);
                prop_assert!(*found || !many.iter().any(|other| other == set));
            }
            prop_assert!(have_near_duplicates(&few, many.iter().map(Vec::as_slice), 0).iter().all(|found| !found));
        }
    }
}
