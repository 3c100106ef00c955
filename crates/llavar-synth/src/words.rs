//! What is printed: word lists in four languages, made-up names, amounts, dates, telephone numbers.

use crate::config::{Language, SynthConfig};
use crate::rng::Rng;

/// One list for each language: English, German, French, Spanish.
type Lists = [&'static [&'static str]; 4];

#[rustfmt::skip]
pub(crate) const FIRST_NAMES: Lists = [
    &["Alice", "Robert", "Helen", "Oscar", "Nina", "George", "Laura", "Peter", "Ruth", "Simon", "Clara", "Victor", "Emma", "Frank", "Grace", "Henry", "Irene", "Jack", "Karen", "Louis", "Maria", "Noah", "Olivia", "Paul"],
    &["Anna", "Jürgen", "Lena", "Matthias", "Sabine", "Klaus", "Ute", "Jörg", "Greta", "Felix", "Heike", "Stefan", "Käthe", "Moritz", "Ilse", "Bernd"],
    &["Élise", "Luc", "Camille", "André", "Chloé", "Hugo", "Inès", "Théo", "Manon", "René", "Sophie", "Gaël", "Noémie", "Paul", "Jeanne", "Denis"],
    &["Lucía", "Diego", "Inés", "Andrés", "Sofía", "Mateo", "Elena", "Óscar", "Nuria", "Pablo", "Begoña", "Iván", "Rosa", "Tomás", "Marta", "Julián"],
];
#[rustfmt::skip]
pub(crate) const SURNAMES: Lists = [
    &["Walker", "Hughes", "Bennett", "Carter", "Foster", "Morgan", "Turner", "Palmer", "Reed", "Stone", "Fisher", "Hayes", "Lambert", "Mason", "Norton", "Parker", "Quinn", "Rhodes", "Sutton", "Thorne", "Vaughn", "Webster", "York", "Bishop"],
    &["Müller", "Schneider", "Weiß", "Köhler", "Richter", "Bauer", "Vogel", "Krämer", "Lange", "Brandt", "Günther", "Sommer", "Winkler", "Jäger", "Pohl", "Haas"],
    &["Dupont", "Lefèvre", "Moreau", "Girard", "Mercier", "Fontaine", "Bonnet", "Roussel", "Gauthier", "Besançon", "Chevalier", "Perrin", "Marchand", "Leclerc", "Vidal", "Noël"],
    &["García", "Navarro", "Molina", "Ibáñez", "Castro", "Ortega", "Núñez", "Serrano", "Delgado", "Peña", "Vargas", "Crespo", "Márquez", "Rubio", "Soler", "Vega"],
];
#[rustfmt::skip]
pub(crate) const TOWNS: Lists = [
    &["Oxford", "Bristol", "Denver", "Dublin", "Boston", "Leeds", "Perth", "Austin", "Halifax", "Dover", "Salem", "Carlisle", "Hobart", "Newport", "Camden", "Ripley", "Norwich", "Tucson", "Calgary", "Galway", "Durham", "Windsor", "Madison", "Bedford"],
    &["Köln", "Hamburg", "Leipzig", "Bremen", "Würzburg", "Kassel", "Lübeck", "Mainz", "Jena", "Ulm", "Trier", "Göttingen", "Bonn", "Passau", "Erfurt", "Kiel"],
    &["Lyon", "Nantes", "Orléans", "Rennes", "Lille", "Nîmes", "Dijon", "Angers", "Tours", "Besançon", "Metz", "Brest", "Pau", "Rouen", "Amiens", "Nancy"],
    &["Sevilla", "Málaga", "Cádiz", "Bilbao", "León", "Toledo", "Murcia", "Burgos", "Vigo", "Córdoba", "Gijón", "Soria", "Huesca", "Lugo", "Teruel", "Cuenca"],
];
#[rustfmt::skip]
pub(crate) const GOODS: Lists = [
    &["Coffee", "Milk", "Bread", "Apples", "Butter", "Cheese", "Honey", "Rice", "Soap", "Pasta", "Juice", "Eggs", "Salad", "Tea", "Sugar", "Candles", "Notebook", "Batteries", "Chocolate", "Yogurt", "Olive oil", "Tomatoes", "Onions", "Napkins"],
    &["Kaffee", "Milch", "Brot", "Äpfel", "Butter", "Käse", "Honig", "Reis", "Seife", "Nudeln", "Saft", "Eier", "Salat", "Tee", "Zucker", "Kerzen"],
    &["Café", "Lait", "Pain", "Pommes", "Beurre", "Fromage", "Miel", "Riz", "Savon", "Pâtes", "Jus", "Oeufs", "Salade", "Thé", "Sucre", "Bougies"],
    &["Café", "Leche", "Pan", "Manzanas", "Mantequilla", "Queso", "Miel", "Arroz", "Jabón", "Pasta", "Zumo", "Huevos", "Ensalada", "Té", "Azúcar", "Velas"],
];
#[rustfmt::skip]
pub(crate) const SHOP_TYPES: Lists = [
    &["Market", "Cafe", "Books", "Bakery", "Grocery", "Deli", "Pharmacy", "Garden", "Kitchen", "Hardware", "Stores", "Bistro"],
    &["Markt", "Café", "Bücher", "Bäckerei", "Kaufhaus", "Feinkost", "Apotheke", "Garten", "Küche", "Laden"],
    &["Marché", "Café", "Librairie", "Boulangerie", "Épicerie", "Traiteur", "Pharmacie", "Jardin", "Cuisine", "Bistro"],
    &["Mercado", "Café", "Librería", "Panadería", "Tienda", "Bodega", "Farmacia", "Jardín", "Cocina", "Taberna"],
];
#[rustfmt::skip]
pub(crate) const NOUNS: Lists = [
    &["River", "Garden", "Winter", "Harbor", "Lantern", "Mountain", "Shadow", "Island", "Orchard", "Mirror", "Bridge", "Summer", "Forest", "Letter", "Window", "Ocean", "Silence", "Castle", "Morning", "Thunder", "Desert", "Violin", "Comet", "Meadow"],
    &["Fluss", "Garten", "Winter", "Hafen", "Laterne", "Berg", "Schatten", "Insel", "Spiegel", "Brücke", "Sommer", "Wald", "Brief", "Fenster", "Stille", "Morgen"],
    &["Fleuve", "Jardin", "Hiver", "Port", "Lanterne", "Montagne", "Ombre", "Forêt", "Miroir", "Pont", "Été", "Lettre", "Fenêtre", "Silence", "Matin", "Orage"],
    &["Río", "Jardín", "Invierno", "Puerto", "Farol", "Montaña", "Sombra", "Isla", "Espejo", "Puente", "Verano", "Bosque", "Carta", "Ventana", "Silencio", "Mañana"],
];
#[rustfmt::skip]
pub(crate) const ADJECTIVES: Lists = [
    &["Silent", "Golden", "Hidden", "Broken", "Distant", "Burning", "Little", "Secret", "Crimson", "Frozen", "Endless", "Gentle", "Hollow", "Bright", "Wild", "Lost"],
    &["Stiller", "Goldener", "Ferner", "Kleiner", "Alter", "Dunkler", "Weiter", "Heller"],
    &["Lointain", "Petit", "Secret", "Perdu", "Ancien", "Doux", "Dernier", "Profond"],
    &["Lejano", "Dorado", "Secreto", "Perdido", "Antiguo", "Dulce", "Oculto", "Eterno"],
];
#[rustfmt::skip]
pub(crate) const STREETS: Lists = [
    &["Oak Street", "Mill Lane", "Park Avenue", "High Street", "Station Road", "Church Lane", "Elm Drive", "Bridge Road", "King Street", "Hill Road"],
    &["Bahnhofstraße", "Gartenweg", "Lindenallee", "Marktplatz", "Schulstraße", "Mühlenweg"],
    &["Rue du Port", "Avenue Foch", "Rue Verte", "Place du Marché", "Quai Nord", "Rue des Lilas"],
    &["Calle Mayor", "Avenida del Sol", "Plaza Nueva", "Calle Luna", "Paseo del Mar", "Calle Real"],
];
#[rustfmt::skip]
pub(crate) const EVENTS: Lists = [
    &["Jazz Night", "Spring Fair", "Book Festival", "Film Week", "Food Market", "Science Day", "Chess Open", "Art Show", "Folk Concert", "Tech Meetup", "Dance Gala", "City Run", "Flower Show", "Poetry Slam", "Craft Fair", "Opera Evening"],
    &["Jazznacht", "Frühlingsfest", "Buchmesse", "Filmwoche", "Stadtlauf", "Kunstschau", "Weinfest", "Tanzabend"],
    &["Nuit du Jazz", "Fête du Livre", "Semaine du Film", "Foire aux Fleurs", "Bal d'Été", "Course Verte", "Salon d'Art", "Soirée Opéra"],
    &["Noche de Jazz", "Feria del Libro", "Semana de Cine", "Fiesta Mayor", "Carrera Verde", "Gala de Danza", "Muestra de Arte", "Mercado Rural"],
];
#[rustfmt::skip]
pub(crate) const VENUES: Lists = [
    &["Town Hall", "Central Park", "Royal Theatre", "Old Library", "River Stage", "Grand Hotel", "West Pier", "Union Square", "Civic Center", "North Arena"],
    &["Rathaus", "Stadtpark", "Alte Oper", "Stadthalle", "Messehalle", "Schlosshof"],
    &["Hôtel de Ville", "Grand Théâtre", "Parc Central", "Vieux Port", "Salle Pleyel", "Halle Nord"],
    &["Teatro Real", "Parque Central", "Plaza Mayor", "Casa de Cultura", "Sala Norte", "Palacio Viejo"],
];
#[rustfmt::skip]
pub(crate) const PUBLISHERS: Lists = [
    &["Lighthouse Press", "Orion House", "Maple Books", "Harbor Editions", "Northwind Press", "Blue Heron", "Summit Books", "Quill House", "Cedar Press", "Anchor Lane"],
    &["Linden Verlag", "Nordlicht Verlag", "Eulen Verlag", "Adler Bücher", "Stern Verlag"],
    &["Éditions du Lac", "Maison Verte", "Plume Bleue", "Éditions Nord", "Le Phare"],
    &["Editorial Sol", "Casa Azul", "Ediciones Luna", "Pluma Verde", "El Faro"],
];
#[rustfmt::skip]
pub(crate) const JOBS: Lists = [
    &["Teacher", "Engineer", "Nurse", "Architect", "Chef", "Pilot", "Lawyer", "Designer", "Farmer", "Dentist", "Librarian", "Carpenter", "Journalist", "Chemist"],
    &["Lehrer", "Ingenieur", "Architekt", "Koch", "Pilot", "Anwalt", "Bäcker", "Zahnarzt"],
    &["Professeur", "Ingénieur", "Infirmier", "Architecte", "Cuisinier", "Pilote", "Avocat", "Dentiste"],
    &["Profesor", "Ingeniero", "Enfermero", "Arquitecto", "Cocinero", "Piloto", "Abogado", "Dentista"],
];
#[rustfmt::skip]
pub(crate) const TOPICS: Lists = [
    &["Sales", "Visitors", "Rainfall", "Energy Use", "Exports", "Members", "Orders", "Tickets Sold", "Website Visits", "Water Use", "New Students", "Bike Rentals"],
    &["Umsatz", "Besucher", "Regen", "Energie", "Exporte", "Mitglieder", "Aufträge", "Strom"],
    &["Ventes", "Visiteurs", "Pluie", "Énergie", "Exportations", "Membres", "Commandes", "Billets"],
    &["Ventas", "Visitantes", "Lluvia", "Energía", "Exportaciones", "Socios", "Pedidos", "Billetes"],
];
#[rustfmt::skip]
pub(crate) const MONTHS: Lists = [
    &["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"],
    &["Januar", "Februar", "März", "April", "Mai", "Juni", "Juli", "August", "September", "Oktober", "November", "Dezember"],
    &["janvier", "février", "mars", "avril", "mai", "juin", "juillet", "août", "septembre", "octobre", "novembre", "décembre"],
    &["enero", "febrero", "marzo", "abril", "mayo", "junio", "julio", "agosto", "septiembre", "octubre", "noviembre", "diciembre"],
];
#[rustfmt::skip]
pub(crate) const DAYS: Lists = [
    &["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"],
    &["Montag", "Dienstag", "Mittwoch", "Donnerstag", "Freitag", "Samstag", "Sonntag"],
    &["lundi", "mardi", "mercredi", "jeudi", "vendredi", "samedi", "dimanche"],
    &["lunes", "martes", "miércoles", "jueves", "viernes", "sábado", "domingo"],
];
#[rustfmt::skip]
pub(crate) const SIGN_WORDS: Lists = [
    &["EXIT", "PARKING", "HOSPITAL", "AIRPORT", "LIBRARY", "MUSEUM", "STATION", "BEACH", "MARKET", "HOTEL", "SCHOOL", "HARBOR", "STADIUM", "CASTLE", "CAMPING", "FERRY", "THEATRE", "CINEMA", "GALLERY", "VILLAGE"],
    &["AUSGANG", "PARKPLATZ", "KRANKENHAUS", "FLUGHAFEN", "MUSEUM", "BAHNHOF", "STRAND", "MARKT", "HOTEL", "SCHULE", "HAFEN", "BURG"],
    &["SORTIE", "PARKING", "HOPITAL", "GARE", "MUSEE", "PLAGE", "HOTEL", "ECOLE", "PORT", "CHATEAU", "CAMPING", "STADE"],
    &["SALIDA", "PARKING", "HOSPITAL", "MUSEO", "PLAYA", "MERCADO", "HOTEL", "ESCUELA", "PUERTO", "CASTILLO", "CAMPING", "ESTADIO"],
];
#[rustfmt::skip]
pub(crate) const SETTINGS: Lists = [
    &["Brightness", "Volume", "Battery", "Storage", "Zoom", "Contrast", "Font size", "Memory", "Upload", "Download"],
    &["Helligkeit", "Lautstärke", "Akku", "Speicher", "Zoom", "Kontrast", "Schrift", "Upload"],
    &["Luminosité", "Volume", "Batterie", "Stockage", "Zoom", "Contraste", "Police", "Envoi"],
    &["Brillo", "Volumen", "Batería", "Memoria", "Zoom", "Contraste", "Fuente", "Subida"],
];
#[rustfmt::skip]
pub(crate) const APPS: Lists = [
    &["Settings", "Dashboard", "Player", "Editor", "Monitor", "Studio", "Console", "Planner"],
    &["Einstellungen", "Übersicht", "Monitor", "Studio", "Planer"],
    &["Réglages", "Tableau", "Moniteur", "Studio", "Agenda"],
    &["Ajustes", "Panel", "Monitor", "Estudio", "Agenda"],
];

/// Printed labels: English, German, French, Spanish.
#[rustfmt::skip]
const LABELS: &[[&str; 4]] = &[
    ["TOTAL", "SUMME", "TOTAL", "TOTAL"],
    ["SUBTOTAL", "ZWISCHENSUMME", "SOUS-TOTAL", "SUBTOTAL"],
    ["TAX", "MWST", "TVA", "IVA"],
    ["Date", "Datum", "Date", "Fecha"],
    ["Time", "Zeit", "Heure", "Hora"],
    ["Receipt", "Beleg", "Ticket", "Recibo"],
    ["Cash", "Bar", "Espèces", "Efectivo"],
    ["Card", "Karte", "Carte", "Tarjeta"],
    ["Thank you!", "Vielen Dank!", "Merci !", "Gracias"],
    ["Name", "Name", "Nom", "Nombre"],
    ["Date of birth", "Geburtsdatum", "Date de naissance", "Fecha de nacimiento"],
    ["City", "Ort", "Ville", "Ciudad"],
    ["Address", "Anschrift", "Adresse", "Dirección"],
    ["Phone", "Telefon", "Téléphone", "Teléfono"],
    ["Occupation", "Beruf", "Profession", "Profesión"],
    ["Reference", "Nummer", "Référence", "Referencia"],
    ["Tickets", "Karten", "Billets", "Entradas"],
    ["Registration Form", "Anmeldung", "Inscription", "Inscripción"],
    ["Membership Form", "Mitgliedsantrag", "Adhésion", "Solicitud"],
    ["Patient Record", "Patientenblatt", "Fiche patient", "Ficha médica"],
    ["Order Form", "Bestellung", "Bon de commande", "Pedido"],
    ["User", "Benutzer", "Compte", "Usuario"],
    ["Version", "Version", "Version", "Versión"],
    ["Save", "Sichern", "Enregistrer", "Guardar"],
    ["Cancel", "Abbrechen", "Annuler", "Cancelar"],
    ["Open", "Geöffnet", "Ouvert", "Abierto"],
    ["Dear", "Hallo", "Bonjour", "Hola"],
    ["please buy", "bitte kaufe", "achète", "compra"],
    ["Meet me on", "Treffen am", "Rendez-vous", "Nos vemos el"],
    ["Call", "Ruf an:", "Appelle le", "Llama al"],
    ["by", "von", "de", "de"],
];

fn index(language: Language) -> usize {
    match language {
        Language::En => 0,
        Language::De => 1,
        Language::Fr => 2,
        Language::Es => 3,
    }
}

/// Draws printed content in the language of one picture.
pub(crate) struct Speaker<'c> {
    pub(crate) config: &'c SynthConfig,
    pub(crate) language: Language,
}

impl Speaker<'_> {
    /// The label that is `english` in English.
    pub(crate) fn label(&self, english: &'static str) -> &'static str {
        let row = LABELS.iter().find(|row| row[0] == english);
        row.map_or(english, |row| row[index(self.language)])
    }

    /// All months, in order.
    pub(crate) fn months(&self) -> &'static [&'static str] {
        MONTHS[index(self.language)]
    }

    /// A day of the week, counted on from Monday.
    pub(crate) fn day(&self, i: usize) -> String {
        DAYS[index(self.language)][i % 7].to_owned()
    }

    /// The usable part of a list.
    pub(crate) fn list(&self, lists: &Lists) -> &'static [&'static str] {
        let list = lists[index(self.language)];
        let n = self.config.vocabulary as usize;
        if n == 0 {
            list
        } else {
            &list[..n.clamp(2, list.len())]
        }
    }

    /// One entry of a list.
    pub(crate) fn word(&self, lists: &Lists, rng: &mut Rng) -> String {
        (*rng.pick(self.list(lists))).to_owned()
    }

    /// `n` different entries of a list (all, when it has fewer).
    pub(crate) fn distinct(&self, lists: &Lists, n: usize, rng: &mut Rng) -> Vec<String> {
        let mut list = self.list(lists).to_vec();
        rng.shuffle(&mut list);
        list.into_iter().take(n).map(str::to_owned).collect()
    }

    /// A name from the list, or made up.
    pub(crate) fn name(&self, lists: &Lists, rng: &mut Rng) -> String {
        if rng.chance(self.config.made_up) {
            made_up(rng)
        } else {
            self.word(lists, rng)
        }
    }

    /// First name and surname.
    pub(crate) fn person(&self, rng: &mut Rng) -> String {
        format!(
            "{} {}",
            self.word(&FIRST_NAMES, rng),
            self.name(&SURNAMES, rng)
        )
    }

    /// Largest whole amount, such as 99 for two digits.
    pub(crate) fn largest(&self) -> i64 {
        10_i64.pow(u32::from(self.config.amount_digits.clamp(1, 4))) - 1
    }

    /// A whole number from 10 (1 for one digit) to the largest.
    pub(crate) fn number(&self, rng: &mut Rng) -> i64 {
        rng.int(
            if self.config.amount_digits > 1 { 10 } else { 1 },
            self.largest(),
        )
    }

    /// Prints an amount of cents with the currency of the language.
    pub(crate) fn money(&self, cents: i64) -> String {
        let point = if self.language == Language::En {
            '.'
        } else {
            ','
        };
        let number = if self.config.cents {
            format!("{}{point}{:02}", cents / 100, cents % 100)
        } else {
            format!("{}", cents / 100)
        };
        if self.language == Language::En {
            format!("${number}")
        } else {
            format!("{number} €")
        }
    }

    /// A date; the style is fixed for fixed layouts.
    pub(crate) fn date(&self, rng: &mut Rng) -> String {
        let (day, month, year) = (rng.int(1, 28), rng.below(12), rng.int(1995, 2029));
        let name = MONTHS[index(self.language)][month];
        let en = self.language == Language::En;
        match if self.is_fixed() { 0 } else { rng.below(4) } {
            0 => format!("{year}-{:02}-{day:02}", month + 1),
            1 => format!("{day:02}/{:02}/{year}", month + 1),
            2 if en => format!("{name} {day}, {year}"),
            2 if self.language == Language::De => format!("{day}. {name} {year}"),
            2 if self.language == Language::Es => format!("{day} de {name} de {year}"),
            _ => format!("{day} {name} {year}"),
        }
    }

    /// A time of day.
    pub(crate) fn time(&self, rng: &mut Rng) -> String {
        let (hour, minute) = (rng.int(7, 22), rng.int(0, 11) * 5);
        if self.language == Language::En && !self.is_fixed() && rng.chance(0.5) {
            let half = if hour < 12 { "am" } else { "pm" };
            return format!("{}:{minute:02} {half}", (hour + 11) % 12 + 1);
        }
        format!("{hour}:{minute:02}")
    }

    /// A telephone number.
    pub(crate) fn phone(&self, rng: &mut Rng) -> String {
        format!(
            "{}-{:03}-{:04}",
            rng.int(201, 989),
            rng.int(100, 999),
            rng.int(0, 9999)
        )
    }

    /// True for settings that print every field in one form.
    pub(crate) fn is_fixed(&self) -> bool {
        self.config.layout == crate::config::Layout::Fixed
    }
}

/// A pronounceable made-up name of two or three syllables.
pub(crate) fn made_up(rng: &mut Rng) -> String {
    const STARTS: [&str; 24] = [
        "b", "br", "c", "d", "dr", "f", "g", "gr", "h", "k", "l", "m", "n", "p", "pr", "r", "s",
        "st", "t", "tr", "v", "w", "z", "sh",
    ];
    const VOWELS: [&str; 9] = ["a", "e", "i", "o", "u", "a", "e", "o", "ai"];
    const ENDS: [&str; 12] = [
        "n", "r", "l", "s", "m", "x", "nd", "rt", "ck", "lin", "ton", "va",
    ];
    let mut name = String::new();
    for _ in 0..2 + rng.below(2) {
        name.push_str(rng.pick::<&str>(&STARTS));
        name.push_str(rng.pick::<&str>(&VOWELS));
    }
    name.push_str(rng.pick::<&str>(&ENDS));
    capital(&name)
}

/// The text with its first letter as a capital.
pub(crate) fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters
        .next()
        .map_or(String::new(), |c| c.to_uppercase().chain(letters).collect())
}
