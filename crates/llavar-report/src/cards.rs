//! Answered questions with their pictures, to be searched, filtered and sorted.

use maud::{Markup, Render, html};

use crate::number::significant;
use crate::picture::{Pictures, Thumbnail};
use crate::text::Text;

/// One answer to a question.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Answer {
    /// Who gave it; empty where the page has one answerer only.
    pub by: String,
    /// The answer, or what stands in its place.
    pub text: String,
    /// Whether it is right; none where right and wrong is not a matter of the metric.
    pub right: Option<bool>,
    /// Whether there is no answer: `text` then says why.
    pub failed: bool,
    /// Scores by name.
    pub scores: Vec<(String, f64)>,
}

/// One question.
#[derive(Debug, Clone, PartialEq)]
pub struct Card {
    /// Id of the question.
    pub id: String,
    /// Its picture.
    pub picture: Thumbnail,
    /// Name of the picture.
    pub picture_name: String,
    /// What group the question belongs to; the cards are filtered by it.
    pub category: String,
    /// The question.
    pub question: String,
    /// References.
    pub gold: Vec<String>,
    /// Answers, one by each answerer.
    pub answers: Vec<Answer>,
    /// What else there is to say, in a small line.
    pub remarks: Vec<String>,
}

/// Cards with the means to find some of them.
#[derive(Debug, Clone)]
pub struct Cards<'a> {
    /// The cards, in the order in which they are shown at first.
    pub cards: &'a [Card],
    /// Their pictures.
    pub pictures: &'a Pictures,
}

/// How the answers of a card are, for the filter.
fn outcome(card: &Card) -> &'static str {
    let mut right = card.answers.iter().filter_map(|answer| answer.right);
    match right.next() {
        None => "open",
        Some(first) if right.any(|other| other != first) => "mixed",
        Some(true) => "right",
        Some(false) => "wrong",
    }
}

/// Distinct values in order of first appearance.
fn distinct<'a>(values: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = std::collections::HashSet::new();
    values.filter(|value| seen.insert(*value)).collect()
}

impl Cards<'_> {
    fn controls(&self) -> Markup {
        let cards = self.cards;
        let categories = distinct(cards.iter().map(|card| card.category.as_str()));
        let answers = || cards.iter().flat_map(|card| &card.answers);
        let scores = distinct(
            answers()
                .flat_map(|a| &a.scores)
                .map(|(name, _)| name.as_str()),
        );
        let by = distinct(answers().map(|answer| answer.by.as_str()));
        let has = |wanted: &str| cards.iter().any(|card| outcome(card) == wanted);
        html! {
            div.controls {
                input type="search" placeholder="search question, gold, answer, id" aria-label="search" name="find";
                @if has("right") || has("wrong") {
                    select name="outcome" aria-label="right or wrong" {
                        option value="" { "right and wrong" }
                        option value="wrong" { @if by.len() > 1 { "all wrong" } @else { "wrong" } }
                        option value="right" { @if by.len() > 1 { "all right" } @else { "right" } }
                        @if has("mixed") { option value="mixed" { "not all the same" } }
                        @if answers().any(|a| a.failed) { option value="failed" { "without an answer" } }
                    }
                }
                @if categories.len() > 1 {
                    select name="category" aria-label="category" {
                        option value="" { "all categories" }
                        @for (number, name) in categories.iter().enumerate() {
                            option value=(number) { (Text(if name.is_empty() { "(none)" } else { name })) }
                        }
                    }
                }
                @if !scores.is_empty() {
                    select name="order" aria-label="order" {
                        option value="" { "in order" }
                        @for (number, (name, by)) in columns(&scores, &by).into_iter().enumerate() {
                            option value=(format!("{number} up")) { "lowest " (Text(name)) (of(by)) }
                            option value=(format!("{number} down")) { "highest " (Text(name)) (of(by)) }
                        }
                    }
                }
                output.count { (cards.len()) " questions" }
            }
        }
    }
}

/// Every score of every answerer.
fn columns<'a>(scores: &[&'a str], by: &[&'a str]) -> Vec<(&'a str, &'a str)> {
    let of = |score: &&'a str| by.iter().map(|by| (*score, *by)).collect::<Vec<_>>();
    scores.iter().flat_map(of).collect()
}

fn of(by: &str) -> Markup {
    html! { @if !by.is_empty() { " of " (Text(by)) } }
}

impl Render for Cards<'_> {
    fn render(&self) -> Markup {
        let categories = distinct(self.cards.iter().map(|card| card.category.as_str()));
        let number: std::collections::HashMap<&str, usize> = categories
            .iter()
            .enumerate()
            .map(|(at, name)| (*name, at))
            .collect();
        let answers = || self.cards.iter().flat_map(|card| &card.answers);
        let scores = distinct(
            answers()
                .flat_map(|a| &a.scores)
                .map(|(name, _)| name.as_str()),
        );
        let by = distinct(answers().map(|answer| answer.by.as_str()));
        let columns = columns(&scores, &by);
        html! {
            section.browser {
                (self.controls())
                div.cards { @for card in self.cards {
                    article data-category=(number.get(card.category.as_str()).copied().unwrap_or(0))
                        data-outcome=(outcome(card)) data-failed[card.answers.iter().any(|a| a.failed)]
                        data-scores=(score_list(card, &columns)) {
                        (self.picture(card))
                        div.said {
                            (question(&card.question))
                            @for answer in &card.answers { (said(answer)) }
                            p.gold { span.tag { "gold" } (gold(&card.gold)) }
                            p.meta { (Text(&card.id))
                                @if !card.category.is_empty() { " \u{B7} " (Text(&card.category)) }
                                @for remark in &card.remarks { " \u{B7} " (Text(remark)) } }
                        }
                    }
                } }
                button.more type="button" hidden { "show more" }
            }
        }
    }
}

impl Cards<'_> {
    fn picture(&self, card: &Card) -> Markup {
        match &card.picture {
            Thumbnail::Shown(number) => html! {
                figure.picture title=(crate::text::shown(&card.picture_name)) {
                    (self.pictures.element(*number, &card.picture_name))
                }
            },
            Thumbnail::Missing(why) => html! { figure.picture.missing {
                strong { "no picture" } span { (Text(&card.picture_name)) } small { (Text(why)) }
            } },
            Thumbnail::None => html! {},
        }
    }
}

/// The card's scores by column, for the script: `0.5 1 -`.
fn score_list(card: &Card, columns: &[(&str, &str)]) -> String {
    let score = |(name, by): &(&str, &str)| {
        let answer = card.answers.iter().find(|answer| answer.by == *by);
        let score = answer.and_then(|a| a.scores.iter().find(|(n, _)| n == name));
        score.map_or("-".to_owned(), |(_, score)| format!("{score}"))
    };
    columns.iter().map(score).collect::<Vec<_>>().join(" ")
}

/// A question; what is asked of every question alike (a suffix on lines of its own) is set apart.
fn question(text: &str) -> Markup {
    let (first, rest) = text.trim_end().split_once('\n').unwrap_or((text, ""));
    html! {
        p.q { (Text(first)) }
        @if !rest.is_empty() { p.rest { (Text(rest)) } }
    }
}

fn gold(references: &[String]) -> Markup {
    // TextVQA has ten references, most of them the same.
    let distinct = distinct(references.iter().map(String::as_str));
    html! {
        @if distinct.is_empty() { em { "no reference" } }
        @for (at, gold) in distinct.iter().enumerate() {
            @if at > 0 { span.or { " | " } }
            @if gold.is_empty() { em { "empty" } } @else { (Text(gold)) }
        }
    }
}

fn said(answer: &Answer) -> Markup {
    let (class, mark) = match (answer.failed, answer.right) {
        (true, _) => ("failed", "!"),
        (_, Some(true)) => ("right", "\u{2713}"),
        (_, Some(false)) => ("wrong", "\u{2717}"),
        (_, None) => ("open", "\u{2022}"),
    };
    html! {
        div.answer .(class) {
            @if !answer.by.is_empty() { span.by { (Text(&answer.by)) } }
            p { span.mark { (mark) } " "
                @if answer.text.is_empty() { em { "empty" } } @else { (Text(&answer.text)) } }
            @if !answer.scores.is_empty() {
                p.scores { @for (name, score) in &answer.scores {
                    span { (Text(name)) " " (significant(*score, 3)) }
                } }
            }
        }
    }
}
