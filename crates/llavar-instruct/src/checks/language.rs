//! In which language a text is, by its script and its most common words.

use serde::{Deserialize, Serialize};

use super::{Broken, Reason, broken, evidence::words, quotes::quoted_spans};

/// A language that can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Language {
    /// No check.
    Any,
    /// English.
    English,
    /// German.
    German,
    /// French.
    French,
    /// Spanish.
    Spanish,
    /// Italian.
    Italian,
    /// Portuguese.
    Portuguese,
    /// Dutch.
    Dutch,
    /// Chinese.
    Chinese,
    /// Japanese.
    Japanese,
    /// Korean.
    Korean,
    /// Russian.
    Russian,
    /// Arabic.
    Arabic,
}

impl Language {
    /// All, by the code in which they are asked for.
    pub const CODES: [(&str, Self); 13] = [
        ("any", Self::Any),
        ("en", Self::English),
        ("de", Self::German),
        ("fr", Self::French),
        ("es", Self::Spanish),
        ("it", Self::Italian),
        ("pt", Self::Portuguese),
        ("nl", Self::Dutch),
        ("zh", Self::Chinese),
        ("ja", Self::Japanese),
        ("ko", Self::Korean),
        ("ru", Self::Russian),
        ("ar", Self::Arabic),
    ];

    /// Its name in English, for prompts; `None` for any.
    pub fn name(self) -> Option<String> {
        (self != Self::Any).then(|| format!("{self:?}"))
    }

    /// Whether a text without its quoted spans is in this language.
    pub(super) fn check(self, text: &str) -> Result<(), Broken> {
        let mut own = text.to_owned();
        for span in quoted_spans(text) {
            own = own.replacen(span, " ", 1);
        }
        let wrong = || {
            let name = self.name().unwrap_or_default();
            broken(Reason::Language, format!("it is not in {name}"))
        };
        let letters = own.chars().filter(|c| c.is_alphabetic()).count();
        if self == Self::Any || letters < 8 {
            return Ok(());
        }
        let share = |in_script: fn(char) -> bool| {
            own.chars().filter(|c| in_script(*c)).count() as f64 / letters as f64
        };
        let han = |c: char| matches!(c, '\u{3400}'..='\u{9fff}');
        let kana = |c: char| matches!(c, '\u{3040}'..='\u{30ff}');
        let by_script = match self {
            Self::Chinese => Some(share(han) > 0.6 && share(kana) < 0.05),
            Self::Japanese => Some(share(kana) > 0.1 && share(han) + share(kana) > 0.6),
            Self::Korean => Some(share(|c| matches!(c, '\u{ac00}'..='\u{d7a3}')) > 0.6),
            Self::Russian => Some(share(|c| matches!(c, '\u{0400}'..='\u{04ff}')) > 0.6),
            Self::Arabic => Some(share(|c| matches!(c, '\u{0600}'..='\u{06ff}')) > 0.6),
            _ => None,
        };
        if let Some(right) = by_script {
            return if right { Ok(()) } else { wrong() };
        }
        if share(|c| matches!(c, 'a'..='z' | 'A'..='Z' | '\u{c0}'..='\u{17f}')) < 0.7 {
            return wrong();
        }
        // Common words tell languages of one script apart; without any there is nothing to say.
        let words = words(&own);
        let count = |list: &str| {
            let list: Vec<&str> = list.split(' ').collect();
            words
                .iter()
                .filter(|word| list.contains(&word.as_str()))
                .count()
        };
        let counts: Vec<(Self, usize)> = COMMON
            .iter()
            .map(|(lang, list)| (*lang, count(list)))
            .collect();
        let mine = counts.iter().find(|(lang, _)| *lang == self);
        let mine = mine.map_or(0, |(_, n)| *n);
        let most = counts.iter().map(|(_, n)| *n).max().unwrap_or(0);
        if most > mine || (mine == 0 && words.len() > 10) {
            wrong()
        } else {
            Ok(())
        }
    }
}

/// Whether a word is one of the most common of any language: it names no fact.
pub(super) fn is_common(word: &str) -> bool {
    COMMON
        .iter()
        .any(|(_, list)| list.split(' ').any(|common| common == word))
}

/// Whether an English text has a verb outside its quotes. Plurals and participles pass for verbs: what is
/// turned down has none for certain.
pub(super) fn has_verb(text: &str) -> bool {
    let mut own = text.to_owned();
    for span in quoted_spans(text) {
        own = own.replacen(span, " ", 1);
    }
    let tokens = own.split(|c: char| !c.is_alphanumeric() && c != '\'' && c != '’');
    let mut tokens = tokens.filter(|token| !token.is_empty()).enumerate();
    tokens.any(|(i, token)| {
        let word = token.to_lowercase();
        // A name in capitals is none.
        let small = i == 0 || !token.starts_with(char::is_uppercase);
        let form = word.ends_with('s') || word.ends_with("ed");
        let short = ["'s", "'re", "n't", "'ll", "'d", "'ve", "’s", "’re", "n’t"];
        (small && VERBS.split(' ').any(|verb| verb == word))
            || (small && word.chars().count() >= 4 && form)
            || short.iter().any(|end| word.ends_with(end))
    })
}

/// Forms of verbs that end neither in s nor in ed.
const VERBS: &str = "is are was were am be been has have had do does did can could may might must shall should will would \
    says said reads read shows shown show stands stand stood gives give gave given goes go went gone come came become \
    became begin began begun start end open close cost pay paid pays sell sold buy bought take took taken make made \
    run ran win won lose lost lead led lie lies lay hold held keep kept lets let put set cut hit get got see saw seen \
    find found know knew known mean meant meet met write wrote written tell told send sent spend spent stay leave left \
    live work need want use call visit ask answer offer include contain belong appear consist begin follow support \
    mention indicate represent describe report rise rose fall fell grow grew drop reach bring brought sit \
    say help allow require apply add build built feel felt think thought speak spoke wear wore hang hung draw drew \
    form bear mark expire depart arrive return serve score remain seem lives";

const COMMON: [(Language, &str); 7] = [
    (
        Language::English,
        "the of and a to in is it that was for on are with as at be this have from or by an not what all were which when where who how can said there use each she do their if will up other about out many then them these so some her would make like into him has two more no way could than been its now did get come made may over under near above below shown shows written located image text reads",
    ),
    (
        Language::German,
        "der die das und ist von zu den mit sich auf für nicht ein eine einen einem einer dem des im es auch als an werden aus er hat dass sie nach wird bei wie was wo welche welcher welches steht oben unten bild über",
    ),
    (
        Language::French,
        "le la les de des et est un une du en que qui dans pour pas sur au aux avec il elle ce cette sont par plus ou quel quelle quels où texte haut bas dans l d qu",
    ),
    (
        Language::Spanish,
        "el la los las de del y es un una en que por con para se no su al como más o cuál qué quién dónde está texto imagen arriba abajo",
    ),
    (
        Language::Italian,
        "il lo la i gli le di del della e è un una in che per con non si da al alla come più quale cosa dove testo immagine nel nella",
    ),
    (
        Language::Portuguese,
        "o a os as de do da dos das e é um uma em que por com para não se no na ao como mais qual quem onde está texto imagem",
    ),
    (
        Language::Dutch,
        "de het een en van is in op te dat die voor met niet aan er zijn om als ook bij naar welke wat waar staat tekst afbeelding boven onder",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn languages_are_told_apart() {
        let texts = [
            (
                Language::English,
                "The title of the book is written in large letters at the top.",
            ),
            (
                Language::German,
                "Der Titel des Buches steht in großen Buchstaben oben auf der Seite.",
            ),
            (
                Language::French,
                "Le titre du livre est écrit en grandes lettres dans le haut de la page.",
            ),
            (
                Language::Spanish,
                "El título del libro está escrito con letras grandes en la parte de arriba.",
            ),
            (
                Language::Italian,
                "Il titolo del libro è scritto con lettere grandi nella parte alta.",
            ),
            (
                Language::Portuguese,
                "O título do livro está escrito com letras grandes na parte de cima.",
            ),
            (
                Language::Dutch,
                "De titel van het boek staat met grote letters boven aan de bladzijde.",
            ),
            (Language::Chinese, "书名用大字写在页面的顶部中央位置。"),
            (
                Language::Japanese,
                "本のタイトルはページの上部に大きな文字で書かれています。",
            ),
            (
                Language::Korean,
                "책의 제목은 페이지 상단에 큰 글씨로 적혀 있습니다.",
            ),
            (
                Language::Russian,
                "Название книги написано крупными буквами вверху страницы.",
            ),
            (
                Language::Arabic,
                "عنوان الكتاب مكتوب بأحرف كبيرة في أعلى الصفحة.",
            ),
        ];
        for (language, _) in texts {
            for (of, text) in texts {
                assert_eq!(
                    language.check(text).is_ok(),
                    language == of,
                    "{language:?}: {text}"
                );
            }
        }
        // What is quoted may be in any language.
        assert!(
            Language::English
                .check("The sign reads \"Der Eingang ist auf der anderen Seite\" in red.")
                .is_ok()
        );
        assert!(Language::Any.check("whatever it is").is_ok());
    }
}
