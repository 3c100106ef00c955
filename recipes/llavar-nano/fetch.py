#!/usr/bin/env python3
"""Fetches the fonts and the text that llavar-nano's synthetic documents are made of.

    python3 recipes/llavar-nano/fetch.py OUT [--work FOLDER] [--only fonts|corpus]

Everything comes out of packages with free licences: Debian's `main`, npm and PyPI, by the ordinary clients
(apt-get, dpkg, npm, pip), without installing anything. OUT gets

    fonts/NAME.ttf|otf   faces: sans, serif, mono, typewriter, receipt printer, condensed, handwriting
    corpus.txt           one short line of text a line, printable ASCII and Latin-1
    LICENCES             every package with its version and licence, and what was taken from it

Needs Debian with `apt-get update` done, npm, pip and 300 MB below --work.
"""

import argparse
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile

import corpus

# Package -> faces: names of files without extension. Licences are those of the packages' own files.
DEBIAN_FONTS = {
    # Sans
    "fonts-liberation": "LiberationSans-Regular LiberationSans-Bold LiberationSans-Italic "
    "LiberationSerif-Regular LiberationSerif-Bold LiberationSerif-Italic LiberationMono-Regular LiberationMono-Bold "
    "LiberationSansNarrow-Regular LiberationSansNarrow-Bold",
    "fonts-urw-base35": "NimbusSans-Regular NimbusSans-Bold NimbusSans-Italic NimbusSansNarrow-Regular "
    "NimbusSansNarrow-Bold NimbusRoman-Regular NimbusRoman-Bold NimbusRoman-Italic NimbusMonoPS-Regular "
    "NimbusMonoPS-Bold C059-Roman C059-Bold C059-Italic P052-Roman URWBookman-Light URWBookman-Demi "
    "URWGothic-Book URWGothic-Demi Z003-MediumItalic",
    "fonts-adf-gillius": "GilliusADF-Regular GilliusADF-Bold GilliusADF-Cond GilliusADF-BoldCond",
    "fonts-adf-universalis": "UniversalisADFStd-Regular UniversalisADFStd-Cond",
    "fonts-b612": "B612-Regular B612-Bold B612Mono-Regular B612Mono-Bold",
    "fonts-cabin": "Cabin-Regular Cabin-Bold Cabin-Italic",
    "fonts-oxygen": "Oxygen-Sans Oxygen-Sans-Bold OxygenMono-Regular",
    "fonts-open-sans": "OpenSans-Regular OpenSans-Bold",
    "fonts-roboto-unhinted": "Roboto-Regular",
    "fonts-karla": "Karla-Regular Karla-Bold",
    "fonts-tuffy": "tuffy_bold",
    "fonts-go": "Go-Regular",
    "fonts-dustin": "Dustismo Domestic_Manners",
    # Serif
    "fonts-lmodern": "lmroman10-regular lmroman10-bold lmroman10-italic lmsans10-regular lmmono10-regular "
    "lmmonolt10-bold lmmonoltcond10-regular lmmonoprop10-regular lmsansdemicond10-regular",
    "fonts-texgyre": "texgyrecursor-regular texgyrecursor-bold texgyreheroscn-regular texgyreheroscn-bold "
    "texgyreschola-regular",
    "fonts-crosextra-caladea": "Caladea-Regular Caladea-Bold Caladea-Italic",
    "fonts-adf-accanthis": "AccanthisADFStd-Regular AccanthisADFStd-Bold",
    "fonts-ebgaramond": "EBGaramond12-Bold",
    "fonts-century-catalogue": "Century-Catalogue",
    "fonts-roboto-slab": "RobotoSlab-Regular RobotoSlab-Bold",
    "fonts-quattrocento": "Quattrocento-Regular",
    "fonts-goudybookletter": "GoudyBookletter1911",
    "fonts-fanwood": "FanwoodText",
    "fonts-essays1743": "Essays1743",
    # Mono, typewriters, terminals and till printers
    "fonts-courier-prime": "CourierPrime CourierPrime-Bold CourierPrimeSans CourierPrimeCode",
    "fonts-inconsolata": "Inconsolata",
    "fonts-anonymous-pro": "AnonymousPro",
    "fonts-mononoki": "mononoki-Regular mononoki-Bold",
    "fonts-fantasque-sans": "FantasqueSansMono-Regular",
    "fonts-3270": "3270-Regular",
    "fonts-tlwg-typewriter-ttf": "TlwgTypewriter TlwgTypewriter-Bold",
    "fonts-tlwg-typist-ttf": "TlwgTypist TlwgTypist-Bold",
    "fonts-ocr-a": "OCRA OCRACondensed",
    "fonts-ocr-b": "OCRB",
    "fonts-glasstty": "Glass_TTY_VT220",
    "fonts-pc": "Px_IBM_VGA8 Px_IBM_VGA9 Px_IBM_EGA8 Px_IBM_MDA",
    "fonts-georgewilliams": "GWMonospaceBold Caliban",
    # Condensed, drawn and technical
    "fonts-bebas-neue": "BebasNeue-Regular BebasNeue-Bold",
    "fonts-yanone-kaffeesatz": "YanoneKaffeesatz-Regular YanoneKaffeesatz-Bold",
    "fonts-dosis": "Dosis-Medium Dosis-Bold",
    "fonts-osifont": "osifont",
    "fonts-routed-gothic": "routed-gothic routed-gothic-narrow",
    "fonts-league-spartan": "LeagueSpartan-Bold",
    "fonts-jura": "Jura-Medium",
    "fonts-quicksand": "Quicksand-Medium",
    # Handwriting
    "fonts-comic-neue": "ComicNeue-Regular ComicNeue-Bold",
    "fonts-dkg-handwriting": "dkg dkgBd",
    "fonts-humor-sans": "Humor-Sans",
    "fonts-rufscript": "Rufscript010",
    "fonts-breip": "Breip",
    "fonts-dancingscript": "DancingScript-Regular",
    "fonts-kristi": "Kristi",
    "fonts-kaushanscript": "KaushanScript-Regular",
    "fonts-lobster": "lobster",
    "fonts-sjfonts": "Delphine SteveHand",
}

NPM_FONTS = {
    "@expo-google-fonts/vt323": "VT323_400Regular",
    "@expo-google-fonts/doto": "Doto_700Bold",
    "@expo-google-fonts/special-elite": "SpecialElite_400Regular",
    "@expo-google-fonts/cutive-mono": "CutiveMono_400Regular",
    "@expo-google-fonts/share-tech-mono": "ShareTechMono_400Regular",
    "@expo-google-fonts/archivo-narrow": "ArchivoNarrow_400Regular",
    "@expo-google-fonts/pathway-gothic-one": "PathwayGothicOne_400Regular",
    "@expo-google-fonts/caveat": "Caveat_400Regular",
    "@expo-google-fonts/homemade-apple": "HomemadeApple_400Regular",
    "@expo-google-fonts/patrick-hand": "PatrickHand_400Regular",
    "@expo-google-fonts/reenie-beanie": "ReenieBeanie_400Regular",
}

# Heavy and drawn faces, of signs and posters: for single words alone (scene_words.py).
DISPLAY_FONTS = {
    f"@expo-google-fonts/{name}": faces for name, faces in [
        ("abril-fatface", "AbrilFatface_400Regular"), ("alfa-slab-one", "AlfaSlabOne_400Regular"), ("anton", "Anton_400Regular"),
        ("archivo-black", "ArchivoBlack_400Regular"), ("bangers", "Bangers_400Regular"), ("black-ops-one", "BlackOpsOne_400Regular"),
        ("bungee", "Bungee_400Regular"), ("chewy", "Chewy_400Regular"), ("cinzel", "Cinzel_400Regular Cinzel_700Bold Cinzel_900Black"),
        ("fascinate", "Fascinate_400Regular"), ("fredoka-one", "FredokaOne_400Regular"), ("graduate", "Graduate_400Regular"),
        ("lilita-one", "LilitaOne_400Regular"), ("limelight", "Limelight_400Regular"), ("luckiest-guy", "LuckiestGuy_400Regular"),
        ("monoton", "Monoton_400Regular"), ("oswald", "Oswald_400Regular Oswald_700Bold"), ("pacifico", "Pacifico_400Regular"),
        ("passion-one", "PassionOne_400Regular PassionOne_700Bold PassionOne_900Black"), ("permanent-marker", "PermanentMarker_400Regular"),
        ("playfair-display", "PlayfairDisplay_400Regular PlayfairDisplay_700Bold PlayfairDisplay_900Black"), ("righteous", "Righteous_400Regular"),
        ("rubik-mono-one", "RubikMonoOne_400Regular"), ("russo-one", "RussoOne_400Regular"), ("rye", "Rye_400Regular"),
        ("shrikhand", "Shrikhand_400Regular"), ("sigmar-one", "SigmarOne_400Regular"), ("titan-one", "TitanOne_400Regular"), ("ultra", "Ultra_400Regular"),
    ]
}


class Packages:
    """Packages of the three registries, unpacked below a work folder, with their licences."""

    def __init__(self, work):
        self.work = work.resolve()
        self.licences = []

    def _call(self, command, folder):
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            sys.exit(f"error: `{' '.join(command)}` failed\n{done.stdout[-2000:]}")
        return done.stdout

    def debian(self, names):
        """{name: folder} of Debian packages."""
        debs, folders = self.work / "deb", {}
        missing = [n for n in names if not list(debs.glob(f"{n}_*.deb"))]
        if missing:
            self._call(["apt-get", "download", *missing], debs)
        for name in names:
            deb = sorted(debs.glob(f"{name}_*.deb"))[-1]
            folders[name] = self.work / "debian" / name
            if not folders[name].is_dir():
                folders[name].parent.mkdir(exist_ok=True)
                self._call(["dpkg", "-x", str(deb), str(folders[name])], self.work)
        return folders

    def npm(self, name):
        folder = self.work / "npm" / name.replace("/", "_")
        if not (folder / "package").is_dir():
            packed = self._call(["npm", "pack", "--silent", name], folder).split()[-1]
            with tarfile.open(folder / packed) as tar:
                tar.extractall(folder, filter="data")
        return folder / "package"

    def pypi(self, *requirements):
        """A folder with packages and their dependencies, importable."""
        folder = self.work / "pypi" / "-".join(requirements)
        if not folder.is_dir():
            self._call([sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), *requirements], self.work)
        return folder

    def note(self, name, version, licence, taken):
        self.licences.append((name, version, licence, taken))

    def note_debian(self, name, folder, taken):
        version = sorted((self.work / "deb").glob(f"{name}_*.deb"))[-1].name.split("_")[1].replace("%3a", ":")
        self.note(f"Debian {name}", version, debian_licence(folder), taken)


def debian_licence(folder):
    """The licences that a package's copyright file names."""
    files = list(folder.glob("usr/share/doc/*/copyright"))
    if not files:
        return "see the package"
    text = files[0].read_text("utf-8", "replace")
    named = re.findall(r"^License:[ \t]*(.+)$", text, re.M)
    if named:
        return ", ".join(dict.fromkeys(n.strip() for n in named))
    text = " ".join(text.split()).lower()
    for mark, name in [
        ("SIL OPEN FONT LICENSE", "OFL-1.1"),
        ("GUST Font License", "GUST Font License"),
        ("Apache License", "Apache-2.0"),
        ("GNU General Public License", "GPL"),
        ("public domain", "public domain"),
        ("BSD copyright", "BSD"),
    ]:
        if mark.lower() in text:
            return name
    return "see usr/share/doc in the package"


def place(found, wanted, out, package):
    """Copies the faces `wanted` of the files `found`."""
    taken = []
    plain = lambda name: re.sub(r"[-_ ]", "", name).lower()
    for face in wanted.split():
        fits = [p for p in found if plain(p.stem) == plain(face)]
        if not fits:
            sys.exit(f"error: {package} has no face {face}; it has {sorted({p.stem for p in found})}")
        best = min(fits, key=lambda p: p.stat().st_size)
        shutil.copyfile(best, out / f"{face}{best.suffix.lower()}")
        taken.append(face)
    return taken


def fonts(packages, out, npm_fonts, debian_fonts):
    out.mkdir(parents=True, exist_ok=True)
    faces = lambda folder: [p for p in folder.rglob("*") if p.suffix.lower() in (".ttf", ".otf") and not p.is_symlink()]
    for name, folder in packages.debian(list(debian_fonts)).items():
        taken = place(faces(folder), debian_fonts[name], out, name)
        packages.note_debian(name, folder, f"{len(taken)} faces")
    for name, wanted in npm_fonts.items():
        folder = packages.npm(name)
        taken = place(faces(folder), wanted, out, name)
        told = corpus.read_json(folder / "package.json")
        packages.note(f"npm {name}", told["version"], told.get("license", ""), f"{len(taken)} faces")
    files = list(out.iterdir())
    print(f"{out}: {len(files)} faces, {sum(f.stat().st_size for f in files) / 1e6:.1f} MB")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("target/llavar-nano-packages"))
    parser.add_argument("--only", choices=["fonts", "corpus"])
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    packages = Packages(args.work)
    if args.only != "corpus":
        fonts(packages, args.out / "fonts", NPM_FONTS, DEBIAN_FONTS)
        fonts(packages, args.out / "display", DISPLAY_FONTS, {})
    if args.only != "fonts":
        corpus.write(packages, args.out / "corpus.txt")
    rows = [f"{name} {version}\n    licence: {licence}\n    taken: {taken}\n" for name, version, licence, taken in packages.licences]
    name = "LICENCES" if args.only is None else f"LICENCES.{args.only}"
    (args.out / name).write_text("".join(rows), "utf-8")


if __name__ == "__main__":
    main()
