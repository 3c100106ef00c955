"""Text of packages with free licences, as short clean lines: prose, terms, and the names, addresses, amounts
and field names that stand on receipts and forms."""

import gzip
import importlib.metadata
import json
import random
import re
import sys
import unicodedata

LONGEST = 200
# Bytes of each kind of line in the corpus, at most.
PROSE, DEFINITIONS, MADE_UP = 2_200_000, 1_600_000, 2_400_000

FORTUNES = """art computers education food fortunes kids law literature medicine miscellaneous news people pets
riddles science sports translate-me wisdom work""".split()

FAKERS = ("faker", "faker-commerce", "faker-food")
LOCALES = """en_US en_US en_US en_GB en_GB en_CA en_AU en_IN en_IE en_NZ en_PH id_ID de_DE fr_FR es_ES it_IT
nl_NL sv_SE pt_BR""".split()

# Words of our own: what receipts and forms of the English-speaking world say around their facts.
STREETS = "JALAN LORONG PERSIARAN LEBUH".split()
STREET_NAMES = """SAGU BUNGA RAYA MELATI CEMPAKA KENANGA DAMAI INDAH JAYA MAJU PERMAI SETIA UTAMA MERANTI SERI
BUKIT SULTAN TUN PERAK AMPANG KELAPA DESA AMAN BAHAGIA MUTIARA PERDANA INTAN ROS TEMPUA WAWASAN HARMONI PUTRA
TEKNOLOGI INDUSTRI PERINDUSTRIAN KLANG IPOH TENAGA""".split()
TOWNS = """JOHOR BAHRU|KUALA LUMPUR|PETALING JAYA|SHAH ALAM|SUBANG JAYA|IPOH|GEORGE TOWN|MELAKA|SEREMBAN|KLANG|
KAJANG|RAWANG|PUCHONG|SKUDAI|MASAI|BATU PAHAT|MUAR|KLUANG|SUNGAI PETANI|ALOR SETAR|KUANTAN|KOTA KINABALU|KUCHING|MIRI|
TAIPING|BUTTERWORTH|CHERAS|AMPANG|SELAYANG|BANGI|NILAI|PORT DICKSON|SINGAPORE""".replace("\n", "").split("|")
KINDS = """SDN BHD|SDN. BHD.|ENTERPRISE|TRADING|HARDWARE|RESTAURANT|MARKETING|STATIONERY|BAKERY|PHARMACY|MINI MARKET|
AUTO PARTS|ELECTRICAL|FOODS|CAFE|BOOK STORE|DEPARTMENT STORE|INDUSTRIES|HOLDINGS|SUPPLIES|& SONS|Inc.|Ltd.|LLC|PLC|
Corp.|Company|Group|Associates|Laboratories|Tobacco Co.|Advertising""".replace("\n", "").split("|")
RECEIPT_LINES = """TAX INVOICE|CASH BILL|SALES RECEIPT|RECEIPT|INVOICE|OFFICIAL RECEIPT|CREDIT NOTE|Thank You|
THANK YOU PLEASE COME AGAIN|GOODS SOLD ARE NOT RETURNABLE|Goods sold are not refundable or exchangeable|
PLEASE KEEP THIS RECEIPT|Have a nice day!|CUSTOMER COPY|MERCHANT COPY|GST SUMMARY|TAX CODE|TAX SUMMARY|
ROUNDING ADJUSTMENT|SUB TOTAL|TOTAL SALES INCLUSIVE GST|TOTAL AMOUNT|GRAND TOTAL|TOTAL QTY|CASH|CHANGE|CHANGE DUE|
AMOUNT DUE|BALANCE DUE|DISCOUNT|SERVICE CHARGE 10%|GST 6%|VAT 20%|TABLE NO|CASHIER|COUNTER|DESCRIPTION|QTY|U.PRICE|
UNIT PRICE|AMOUNT (RM)|PRICE|DISC|ITEM|NO OF ITEMS|PAYMENT|VISA CARD|MASTERCARD|APPROVAL CODE|MEMBER CARD|
POINTS EARNED|OPENING HOURS|TEL|FAX|CO. REG NO|GST ID NO|BILL NO|DOC NO|ORDER NO|STATION""".replace("\n", "").split("|")
FIELDS = """DATE|TO|FROM|SUBJECT|RE|CC|TIME|PAGE|PAGES|NAME|ADDRESS|CITY|STATE|ZIP CODE|PHONE|TELEPHONE NO.|FAX NO.|
COMPANY|DEPARTMENT|TITLE|POSITION|SIGNATURE|APPROVED BY|PREPARED BY|REQUESTED BY|REVIEWED BY|ACCOUNT NO.|PROJECT NO.|
PURCHASE ORDER NO.|REQUISITION NO.|QUANTITY|UNIT PRICE|TOTAL COST|BRAND|BRAND NAME|PRODUCT|MANUFACTURER|SAMPLE NO.|
TEST NO.|METHOD|RESULTS|REMARKS|COMMENTS|DESCRIPTION|PURPOSE|OBJECTIVE|BUDGET|AMOUNT|CHECK NO.|VENDOR|VENDOR NUMBER|
INVOICE NO.|DUE DATE|START DATE|COMPLETION DATE|EFFECTIVE DATE|DATE OF BIRTH|SOCIAL SECURITY NO.|REGION|DIVISION|
DISTRICT|TERRITORY|SALES AREA|MARKET|CIRCULATION|MEDIA|AGENCY|CLIENT|JOB NO.|CODE|SIZE|WEIGHT|LENGTH|COLOR|TYPE OF PACK|
NUMBER OF PAGES INCLUDING COVER|ATTENTION|REFERENCE|CONTACT|DISTRIBUTION|AUTHORIZED BY|STATUS|REASON|QUARTER|YEAR|
MESSAGE|INSTRUCTIONS|ENCLOSURE|COPY TO|OFFICE|MARKETING DEPARTMENT|CONFIDENTIAL|MEMORANDUM|REPORT NO.""".replace("\n", "").split("|")


def read_json(path):
    return json.loads(path.read_text("utf-8"))


def clean(text):
    """Printable ASCII and Latin-1 on one line; None where letters are lost."""
    for fancy, plain in [("\u2018", "'"), ("\u2019", "'"), ("\u201c", '"'), ("\u201d", '"'), ("\u2013", "-"), ("\u2014", "-"), ("\u2026", "..."), ("\xad", "")]:
        text = text.replace(fancy, plain)
    text = " ".join(unicodedata.normalize("NFC", text).split())
    if any(not (" " <= c <= "~" or "\xa1" <= c <= "\xff") for c in text):
        return None
    return text if sum(c.isalnum() for c in text) >= 2 else None


def pieces(text):
    """A paragraph as sentences, long ones cut between words."""
    text = clean(text)
    if text is None:
        return
    for sentence in re.split(r"(?<=[.!?]) (?=[A-Z\"'])", text):
        while len(sentence) > LONGEST:
            cut = sentence.rfind(" ", 0, LONGEST)
            if cut < 40:
                break
            yield sentence[:cut]
            sentence = sentence[cut + 1 :]
        if 2 < len(sentence) <= LONGEST:
            yield sentence


def paragraphs(text):
    for block in re.split(r"\n\s*\n", text):
        yield from pieces(block)


def unpacked(path):
    # A dictd file is a gzip file.
    opened = gzip.open if path.suffix in (".gz", ".dz") else open
    with opened(path, "rb") as file:
        return file.read().decode("utf-8", "replace")


def fortunes(folders):
    for folder in folders:
        for path in sorted((folder / "usr/share/games/fortunes").iterdir()):
            if path.name in FORTUNES:
                for cookie in unpacked(path).split("\n%\n"):
                    yield from paragraphs(cookie.replace("\b", "").replace("\t", " "))


def dictionary(folder, name):
    for block in re.split(r"\n(?=\S)", unpacked(folder / f"usr/share/dictd/{name}.dict.dz")):
        block = re.sub(r"[{}]", "", block)
        if not block.startswith("00-database"):
            yield from paragraphs(block)


def wordnet(folder):
    """Definitions, with the words they define, and examples."""
    for part in ("noun", "verb", "adj", "adv"):
        for row in (folder / f"usr/share/wordnet/data.{part}").read_text("latin-1").splitlines():
            if row.startswith(" ") or " | " not in row:
                continue
            fields, gloss = row.split(" | ", 1)
            fields = fields.split()
            count = int(fields[3], 16)
            words = [re.sub(r"\(.*?\)", "", w).replace("_", " ") for w in fields[4 : 4 + 2 * count : 2]]
            examples = re.findall(r'"([^"]+)"', gloss)
            definition = clean(re.sub(r'[;:]?\s*"[^"]*"', "", gloss).strip(" ;"))
            if definition:
                yield from pieces(f"{', '.join(words)}: {definition}" if len(definition) % 3 else definition)
            for example in examples:
                yield from pieces(example[0].upper() + example[1:] + ("" if example[-1] in ".!?" else "."))


def made_up(packages, rng):
    """Endless lines of receipts, forms, letters and lists of names."""
    sys.path.insert(0, str(packages.pypi(*FAKERS)))
    import faker
    import faker_commerce
    import faker_food

    fakes = []
    for locale in LOCALES:
        fake = faker.Faker(locale)
        fake.seed_instance(rng.getrandbits(32))
        fakes.append(fake)
    # Not every locale has numbers of its own.
    phones = [fake for fake in fakes if hasattr(fake, "phone_number")]
    shop = faker.Faker("en_US")
    shop.seed_instance(rng.getrandbits(32))
    shop.add_provider(faker_commerce.Provider)
    shop.add_provider(faker_food.FoodProvider)
    pick, number = rng.choice, rng.randint
    amount = lambda: f"{number(0, pick([9, 99, 999, 9999])):,}.{number(0, 99):02}" if rng.random() < 0.7 else f"{number(1, 500)}.{pick(['00', '50', '90', '95', '99'])}"
    money = lambda: pick(["", "", "", "RM", "RM ", "$", "USD ", "\xa3", "SGD "]) + amount()

    def date():
        d, m, y = number(1, 28), number(1, 12), number(1960, 2026)
        month = pick(["Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(), "January February March April May June July August September October November December".split()])[m - 1]
        return pick([f"{d:02}/{m:02}/{y}", f"{d:02}-{m:02}-{y}", f"{m}/{d}/{y % 100:02}", f"{d:02}.{m:02}.{y % 100:02}", f"{y}-{m:02}-{d:02}", f"{d} {month} {y}", f"{month} {d}, {y}", f"{d:02}-{month.upper()}-{y}", f"{d:02}/{m:02}/{y} {number(0, 23):02}:{number(0, 59):02}:{number(0, 59):02}"])

    def address():
        if rng.random() < 0.35:
            words = " ".join(rng.sample(STREET_NAMES, number(1, 2)))
            house = pick(["NO. ", "NO ", "LOT ", "NO.", ""]) + pick([str(number(1, 200)), f"{number(1, 99)}-G", f"{number(1, 60)} & {number(61, 99)}", f"{number(1, 9)}-{number(1, 30)}"])
            road = f"{pick(STREETS)} {words}" + pick(["", f" {number(1, 30)}", f" {number(1, 20)}/{number(1, 30)}", f" {number(1, 9)}{pick('ABC')}"])
            return f"{house}, {road}, {pick(['TAMAN', 'BANDAR', 'TAMAN', 'KAMPUNG'])} {' '.join(rng.sample(STREET_NAMES, number(1, 2)))}, {number(10000, 99999)} {pick(TOWNS)}"
        return ", ".join(pick(fakes).address().split("\n"))

    def company():
        if rng.random() < 0.5:
            head = " ".join(rng.sample(STREET_NAMES, number(1, 2))) if rng.random() < 0.4 else pick(fakes).last_name()
            return f"{head} {pick(KINDS)}"
        return pick(fakes).company()

    code = lambda: pick([str(number(10**5, 10**9)), f"{pick('ABCDEFKMPRSTX')}{pick('ABCDEFKMPRSTX')}{number(10**4, 10**8)}", f"{number(100000, 999999)}-{pick('WVAHKTXPUM')}", f"{number(10**11, 10**12 - 1)}", f"{number(1, 99):02}-{number(1000, 9999)}"])
    value = lambda field: date() if "DATE" in field else code() if "NO." in field or "CODE" in field or "NUMBER" in field else pick([pick(fakes).name, company, code, date, amount, lambda: pick(fakes).job(), lambda: str(number(1, 500)), lambda: pick(fakes).city()])()
    quantity = lambda: pick([f"{number(1, 12)}", f"{number(1, 12)} x {amount()}", f"{number(1, 12)} PCS", f"{number(1, 9)}.0{number(0, 9)} KG", f"{number(1, 40)}*{amount()}"])
    goods = lambda: pick([shop.ecommerce_name, shop.ingredient, shop.dish, shop.fruit, shop.vegetable, shop.spice])()
    phone = lambda: pick(["TEL: ", "Tel : ", "FAX: ", "Phone ", "HP : ", ""]) + pick(phones).phone_number()

    def field():
        name = pick(FIELDS)
        shown = name if rng.random() < 0.6 else name.capitalize() if rng.random() < 0.5 else name.title()
        return f"{shown}{pick([':', ': ', ' : ', ' - ', ' '])}{value(name)}".strip()

    def total():
        return f"{pick(RECEIPT_LINES)}{pick([' ', ': ', ' : '])}{pick([money, amount, code, lambda: str(number(1, 60))])()}"

    kinds = [
        (10, company),
        (10, address),
        (6, lambda: pick(fakes).name()),
        (6, lambda: f"{goods()} {money()}"),
        (5, lambda: f"{quantity()} {goods()} {amount()}"),
        (3, lambda: f"{code()} {goods()}"),
        (3, goods),
        (8, total),
        (3, lambda: pick(RECEIPT_LINES)),
        (10, field),
        (3, lambda: pick(FIELDS)),
        (3, phone),
        (3, date),
        (2, code),
        (2, money),
        (3, lambda: pick(fakes).job()),
        (3, lambda: f"{pick(fakes).city()}, {pick(fakes).country()}"),
        (3, lambda: shop.catch_phrase()),
        (3, lambda: shop.bs().capitalize() + "."),
        (2, lambda: pick(fakes).email()),
        (1, lambda: f"{number(0, 100)}.{number(0, 9)}%"),
        (2, lambda: " ".join(amount() for _ in range(number(2, 6)))),
    ]
    weights = [weight for weight, _ in kinds]
    while True:
        line = clean(rng.choices(kinds, weights)[0][1]())
        if line is None or len(line) > LONGEST:
            continue
        yield line.upper() if rng.random() < 0.35 else line


def versions(folder):
    """(name, (version, licence)) of the packages installed in a folder."""
    for found in importlib.metadata.distributions(path=[str(folder)]):
        told = found.metadata
        licence = told.get("License-Expression") or told.get("License") or ""
        classes = [c.split(" :: ")[-1] for c in told.get_all("Classifier", []) if c.startswith("License")]
        licence = licence.split("\n")[0]
        if licence in ("", "UNKNOWN"):
            licence = ", ".join(classes)
        yield told["Name"], (found.version, licence)


def take(lines, most, seen, rng):
    """Lines that are new, in an order of chance, until they are `most` bytes."""
    lines = list(lines)
    rng.shuffle(lines)
    taken, size = [], 0
    for line in lines:
        if line not in seen and size + len(line) < most:
            seen.add(line)
            taken.append(line)
            size += len(line) + 1
    return taken, size


def write(packages, out):
    # Some of the packages draw from the shared source.
    random.seed(8)
    rng = random.Random(8)
    names = ["fortunes", "fortunes-min", "dict-devil", "dict-jargon", "miscfiles", "wordnet-base"]
    folders = packages.debian(names)
    seen, corpus = set(), []
    prose = list(fortunes([folders["fortunes"], folders["fortunes-min"]]))
    for name in ("devil", "jargon"):
        prose += dictionary(folders[f"dict-{name}"], name)
    for path in sorted((folders["miscfiles"] / "usr/share/state").iterdir()):
        prose += paragraphs(unpacked(path))
    for kind, lines, most in (("prose", prose, PROSE), ("definitions", wordnet(folders["wordnet-base"]), DEFINITIONS)):
        taken, size = take(lines, most, seen, rng)
        print(f"{kind}: {len(taken)} lines, {size / 1e6:.2f} MB")
        corpus += taken
    size, count = 0, 0
    for line in made_up(packages, rng):
        if size >= MADE_UP:
            break
        if line not in seen:
            seen.add(line)
            corpus.append(line)
            size += len(line) + 1
            count += 1
    print(f"names, addresses, fields, amounts: {count} lines, {size / 1e6:.2f} MB")
    rng.shuffle(corpus)
    out.write_text("".join(line + "\n" for line in corpus), "utf-8")
    for name in names:
        packages.note_debian(name, folders[name], "lines of text")
    for name in FAKERS:
        told = {k.lower().replace("_", "-"): v for k, v in versions(packages.pypi(*FAKERS))}
        packages.note(f"PyPI {name}", *told[name], "names, streets, towns, companies, goods")
    print(f"{out}: {len(corpus)} lines, {out.stat().st_size / 1e6:.1f} MB")
