use super::*;
use crate::{Pair, row::Place};

fn row(id: &str, qa_id: usize, kind: PairKind, [ifd, vfd, ffd]: [f64; 3]) -> ScoreRow {
    let place = Place {
        record: 0,
        id: id.into(),
        occurrence: 0,
        images: vec![format!("{id}.png")],
        source: id[..1].into(),
    };
    let pair = Pair {
        qa_id,
        kind,
        question: format!("what is printed in the box number {qa_id} of {id}"),
        answer: Some(format!("the box of {id} says number {qa_id}")),
    };
    ScoreRow {
        ifd: Some(ifd),
        vfd: Some(vfd),
        mifd: Some(ifd * vfd),
        ffd: (kind == PairKind::SelfExplain).then_some(ffd),
        ..ScoreRow::unscored(&place, &pair)
    }
}

fn duo(id: &str, first: [f64; 2], second: [f64; 3]) -> [ScoreRow; 2] {
    [
        row(id, 0, PairKind::Extractive, [first[0], first[1], 0.0]),
        row(id, 2, PairKind::SelfExplain, second),
    ]
}

fn names(rows: &[ScoreRow], options: &PickOptions) -> Vec<&'static str> {
    let verdicts = pick(rows, options, &mut |_| None).unwrap();
    let name = |verdict: &Option<Dropped>| verdict.as_ref().map_or("kept", Dropped::name);
    verdicts.iter().map(name).collect()
}

#[test]
fn limits_duos_and_rank() {
    let rows: Vec<ScoreRow> = [
        duo("a", [0.9, 0.9], [0.8, 0.8, 0.5]),
        duo("b", [1.2, 0.9], [0.8, 0.8, 0.5]),
        duo("c", [0.9, 0.9], [0.95, 0.95, 1.1]),
        duo("d", [0.9, 0.7], [0.9, 0.9, 0.9]),
    ]
    .concat();
    let default = PickOptions::default();
    assert_eq!(
        names(&rows, &default),
        [
            "kept",
            "kept",
            "ifd",
            "duo_partner",
            "duo_partner",
            "ffd",
            "kept",
            "kept"
        ]
    );
    assert_eq!(
        names(&rows[1..3], &default),
        ["duo_partner", "ifd"],
        "torn duos"
    );
    let alone = PickOptions {
        duo_rule: false,
        ..default.clone()
    };
    assert_eq!(names(&rows, &alone)[2..6], ["ifd", "kept", "kept", "ffd"]);
    // A duo ranks by its worse pair: 0.64 of a against 0.63 of d.
    let two = PickOptions {
        number: Some(2),
        ..default.clone()
    };
    assert_eq!(names(&rows, &two)[6..], ["rank", "rank"]);
    let lowest = PickOptions {
        fraction: Some(0.25),
        lowest_first: true,
        ..default.clone()
    };
    // Lowest first: the worse pair is the higher one, 0.81 of both; ties go by id.
    assert_eq!(names(&rows, &lowest)[..2], ["kept", "kept"]);
    assert_eq!(names(&rows, &lowest)[6..], ["rank", "rank"]);
    let quota = PickOptions {
        quotas: [("a".to_owned(), 1)].into(),
        ..default.clone()
    };
    assert_eq!(
        names(&rows, &quota)[..2],
        ["quota", "quota"],
        "a duo is not torn"
    );
    let bad = PickOptions {
        fraction: Some(1.5),
        ..default
    };
    assert!(pick(&rows, &bad, &mut |_| None).is_err());
}

#[test]
fn near_duplicates_go_with_the_lower_rank() {
    let mut rows = vec![
        row("a", 0, PairKind::Single, [0.5, 0.5, 0.0]),
        row("b", 0, PairKind::Single, [0.9, 0.9, 0.0]),
        row("c", 0, PairKind::Single, [0.7, 0.7, 0.0]),
    ];
    rows[1].question = rows[0].question.to_uppercase() + "?";
    rows[1].answer = rows[0].answer.clone();
    let options = PickOptions {
        near_text: Some(0.8),
        ..PickOptions::default()
    };
    let verdicts = pick(&rows, &options, &mut |_| None).unwrap();
    assert_eq!(
        verdicts,
        [Some(Dropped::NearText("b 0".into())), None, None]
    );

    let options = PickOptions {
        near_image: Some(4),
        ..PickOptions::default()
    };
    let hash = |grey: u8| {
        let mut image = llavar_image::RgbImage::filled(34, 16, [grey; 3]);
        image.data[48..96].fill(255 - grey);
        ImageHash::of(&image).unwrap()
    };
    let mut hash_of = |name: &str| Some(hash(if name == "c.png" { 250 } else { 10 }));
    let verdicts = pick(&rows, &options, &mut hash_of).unwrap();
    assert_eq!(verdicts[0], Some(Dropped::NearImage("b.png".into())));
    assert_eq!(verdicts[1..], [None, None]);
}

#[test]
fn the_card_counts_everything_once() {
    let mut rows = duo("a", [0.9, 0.9], [0.8, 0.8, 0.5]).to_vec();
    rows.push(row("b", 0, PairKind::Single, [1.0, 0.5, 0.0]));
    rows.push(row("b", 2, PairKind::Single, [0.5, 0.5, 0.0]));
    rows[3].reason = Some("picture b.png: missing".into());
    let options = PickOptions::default();
    let verdicts = pick(&rows, &options, &mut |_| None).unwrap();
    let card = Card::new(&options, &rows, &verdicts);
    assert_eq!((card.pairs, card.kept), (4, 2));
    let dropped: Vec<_> = card.dropped.iter().map(|(k, n)| (k.as_str(), *n)).collect();
    assert_eq!(dropped, [("ifd", 1), ("unscored", 1)]);
    assert_eq!(card.sources["a"], SourceCount { pairs: 2, kept: 2 });
    assert_eq!(card.scores["ffd"].kept, [0.5; 7]);
}

#[test]
fn a_random_pick_depends_on_the_seed_alone() {
    let rows: Vec<ScoreRow> = (0..40)
        .map(|i| row(&format!("s{i}"), 0, PairKind::Single, [0.5, 0.5, 0.0]))
        .collect();
    let options = |seed| PickOptions {
        rank_by: RankBy::Random(seed),
        number: Some(10),
        ..PickOptions::default()
    };
    let kept = |seed| names(&rows, &options(seed));
    assert_eq!(kept(1), kept(1));
    assert_ne!(kept(1), kept(2));
    assert_eq!(kept(3).iter().filter(|name| **name == "kept").count(), 10);
}

#[test]
fn clusters_are_taken_in_turn() {
    // Ten pairs about boxes rank above two about a bus.
    let mut rows: Vec<ScoreRow> = (0..10)
        .map(|i| row(&format!("s{i}"), 0, PairKind::Single, [0.9, 0.9, 0.0]))
        .collect();
    for i in 0..2 {
        let mut bus = row(&format!("t{i}"), 0, PairKind::Single, [0.5, 0.5, 0.0]);
        bus.question = "Where does this bus go to tonight".into();
        bus.answer = format!("Line nine goes to the harbour, stop {i}");
        rows.push(bus);
    }
    let options = |clusters| PickOptions {
        number: Some(4),
        clusters,
        ..PickOptions::default()
    };
    assert_eq!(names(&rows, &options(0))[10..], ["rank", "rank"]);
    let spread = names(&rows, &options(2));
    assert_eq!(spread[10..], ["kept", "kept"]);
    assert_eq!(spread.iter().filter(|name| **name == "kept").count(), 4);
    assert_eq!(spread, names(&rows, &options(2)));
}
