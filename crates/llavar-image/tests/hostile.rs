//! Broken, huge, misnamed and odd files: each is a typed error that names it, or a right picture.

#![allow(clippy::unwrap_used)] // Helpers of tests are tests too.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use llavar_image::{
    DecodeLimits, ImageError, ImageFormat, RgbImage, decode_bytes, decode_file, encode_jpeg,
    encode_png, probe_bytes, probe_file,
};
use proptest::prelude::*;

fn picture(width: usize, height: usize) -> RgbImage {
    let value = |i: usize| ((i * 7919) >> 3) as u8;
    RgbImage::new(width, height, (0..width * height * 3).map(value).collect()).unwrap()
}

/// A valid file of every format, and whether it keeps the pixels exactly.
fn valid_files(image: &RgbImage) -> Vec<(&'static str, Vec<u8>, bool)> {
    let (width, height) = (image.width as u32, image.height as u32);
    let progressive = libjpeg_turbo_rs::Encoder::new(
        &image.data,
        image.width,
        image.height,
        libjpeg_turbo_rs::PixelFormat::Rgb,
    )
    .quality(90)
    .progressive(true)
    .encode()
    .unwrap();

    let mut webp = Vec::new();
    image_webp::WebPEncoder::new(&mut webp)
        .encode(&image.data, width, height, image_webp::ColorType::Rgb8)
        .unwrap();

    let mut tiff = Cursor::new(Vec::new());
    tiff::encoder::TiffEncoder::new(&mut tiff)
        .unwrap()
        .write_image::<tiff::encoder::colortype::RGB8>(width, height, &image.data)
        .unwrap();

    let mut bmp = b"BM\0\0\0\0\0\0\0\0".to_vec();
    for field in [54, 40, width, height, 24 << 16 | 1, 0, 0, 0, 0, 0, 0] {
        bmp.extend_from_slice(&field.to_le_bytes());
    }
    for row in image.data.chunks_exact(image.width * 3).rev() {
        let start = bmp.len();
        bmp.extend(row.chunks_exact(3).flat_map(|p| [p[2], p[1], p[0]]));
        bmp.resize(start + row.len().div_ceil(4) * 4, 0);
    }

    let mut gif = Vec::new();
    let palette: Vec<u8> = (0..=255u8).flat_map(|v| [v, 255 - v, v / 2]).collect();
    {
        let (w, h) = (width as u16, height as u16);
        let mut encoder = gif::Encoder::new(&mut gif, w, h, &palette).unwrap();
        for frame in 0..2 {
            let indices: Vec<u8> = image.data.chunks_exact(3).map(|p| p[frame]).collect();
            encoder
                .write_frame(&gif::Frame {
                    width: w,
                    height: h,
                    buffer: indices.into(),
                    ..Default::default()
                })
                .unwrap();
        }
    }

    vec![
        ("jpeg", encode_jpeg(image, 90).unwrap(), false),
        ("progressive jpeg", progressive, false),
        ("png", encode_png(image).unwrap(), true),
        ("webp", webp, true),
        ("gif", gif, false),
        ("bmp", bmp, true),
        ("tiff", tiff.into_inner(), true),
    ]
}

fn decode(bytes: &[u8]) -> Result<RgbImage, ImageError> {
    decode_bytes(bytes, Path::new("case"), &DecodeLimits::default())
}

#[test]
fn every_format_round_trips() {
    for (width, height) in [(1, 1), (1, 3000), (3000, 1), (33, 21)] {
        let image = picture(width, height);
        for (name, file, exact) in valid_files(&image) {
            let back = decode(&file).unwrap_or_else(|e| panic!("{name} {width}x{height}: {e}"));
            assert_eq!((back.width, back.height), (width, height), "{name}");
            assert!(
                !exact || back == image,
                "{name} {width}x{height} changes pixels"
            );
            let info = probe_bytes(&file, Path::new("x")).unwrap();
            assert_eq!(
                (info.width as usize, info.height as usize),
                (width, height),
                "{name}"
            );
        }
    }
}

#[test]
fn a_gif_gives_its_first_frame() {
    let image = picture(33, 21);
    let (_, file, _) = valid_files(&image)
        .into_iter()
        .find(|f| f.0 == "gif")
        .unwrap();
    let back = decode(&file).unwrap();
    for (got, wanted) in back.data.chunks_exact(3).zip(image.data.chunks_exact(3)) {
        let v = wanted[0];
        assert_eq!(got, [v, 255 - v, v / 2]);
    }
}

#[test]
fn every_cut_is_an_error() {
    for (name, file, _) in valid_files(&picture(60, 50)) {
        let len = file.len();
        let cuts = [
            1,
            2,
            3,
            7,
            11,
            15,
            20,
            29,
            60,
            len / 4,
            len / 2,
            len * 9 / 10,
            len - 13,
            len - 9,
            len - 2,
            len - 1,
        ];
        for cut in cuts.into_iter().filter(|&cut| cut < len) {
            let result = decode(&file[..cut]);
            let typed = matches!(
                result,
                Err(ImageError::Truncated { .. }
                    | ImageError::Corrupt { .. }
                    | ImageError::UnknownFormat { .. })
            );
            // Two bytes of row padding are no loss.
            let padding = name == "bmp" && cut > len - 4 && result.is_ok();
            assert!(
                typed || padding,
                "{name} cut to {cut} of {len} bytes: {result:?}"
            );
        }
        let half = decode(&file[..len / 2]).unwrap_err();
        assert!(
            matches!(half, ImageError::Truncated { .. }),
            "{name}: {half}"
        );
        assert!(half.to_string().contains("case"), "{half}");
    }
}

#[test]
fn huge_headers_are_refused_at_once() {
    let png = |side: u32| {
        let mut ihdr = b"IHDR".to_vec();
        ihdr.extend_from_slice(&side.to_be_bytes());
        ihdr.extend_from_slice(&side.to_be_bytes());
        ihdr.extend_from_slice(&[8, 2, 0, 0, 0]);
        let mut file = b"\x89PNG\r\n\x1a\n\0\0\0\x0d".to_vec();
        file.extend_from_slice(&ihdr);
        file.extend_from_slice(&[0; 12]);
        file
    };
    let start = Instant::now();
    for side in [30_000, 0x7FFF_FFFF] {
        let pixels = u64::from(side) * u64::from(side);
        let error = decode(&png(side)).unwrap_err();
        assert!(
            matches!(error, ImageError::TooLarge { what: "pixels", got, limit: 178_956_970, .. } if got == pixels),
            "{error}"
        );
        assert!(error.to_string().contains("178956970"), "{error}");
    }
    let limits = DecodeLimits {
        max_side: 100,
        ..DecodeLimits::default()
    };
    for (name, file, _) in valid_files(&picture(101, 3)) {
        let error = decode_bytes(&file, Path::new("x"), &limits).unwrap_err();
        assert!(
            matches!(error, ImageError::TooLarge { what: "width", .. }),
            "{name}: {error}"
        );
    }
    let limits = DecodeLimits {
        max_file_bytes: 50,
        ..DecodeLimits::default()
    };
    let error = decode_bytes(
        &encode_png(&picture(9, 9)).unwrap(),
        Path::new("x"),
        &limits,
    );
    assert!(matches!(
        error,
        Err(ImageError::TooLarge {
            what: "file bytes",
            ..
        })
    ));
    assert!(start.elapsed() < Duration::from_secs(1));
}

#[test]
fn odd_paths_are_typed_errors() {
    let folder = tempfile::tempdir().unwrap();
    let limits = DecodeLimits::default();
    let at = |name: &str| folder.path().join(name);
    let check = |path: PathBuf, right: fn(&ImageError) -> bool| {
        for error in [
            decode_file(&path, &limits).err(),
            probe_file(&path, &limits).err(),
        ] {
            let error = error.unwrap_or_else(|| panic!("{} was read", path.display()));
            assert!(right(&error), "{error:?}");
            assert!(
                error.to_string().contains(&path.display().to_string()),
                "{error}"
            );
        }
    };
    check(at("none.png"), |e| matches!(e, ImageError::NotFound { .. }));
    fs::create_dir(at("folder.jpg")).unwrap();
    check(at("folder.jpg"), |e| {
        matches!(e, ImageError::IsDirectory { .. })
    });
    fs::write(at("empty.png"), b"").unwrap();
    check(at("empty.png"), |e| matches!(e, ImageError::Empty { .. }));
    fs::write(at("text.png"), b"BMany words that are no picture at all").unwrap();
    check(at("text.png"), |e| {
        matches!(e, ImageError::UnknownFormat { .. })
    });
    #[cfg(unix)]
    {
        let status = std::process::Command::new("mkfifo")
            .arg(at("pipe.png"))
            .status()
            .unwrap();
        assert!(status.success());
        check(at("pipe.png"), |e| {
            matches!(e, ImageError::NotRegularFile { .. })
        });
        check("/dev/zero".into(), |e| {
            matches!(e, ImageError::NotRegularFile { .. })
        });
        std::os::unix::fs::symlink(at("b"), at("a")).unwrap();
        std::os::unix::fs::symlink(at("a"), at("b")).unwrap();
        check(at("a"), |e| matches!(e, ImageError::Io { .. }));
        std::os::unix::fs::symlink(at("gone"), at("dangling")).unwrap();
        check(at("dangling"), |e| matches!(e, ImageError::NotFound { .. }));
    }
}

#[test]
fn the_extension_does_not_matter() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("picture.jpg");
    let image = picture(20, 10);
    fs::write(&path, encode_png(&image).unwrap()).unwrap();
    let limits = DecodeLimits::default();
    assert_eq!(probe_file(&path, &limits).unwrap().format, ImageFormat::Png);
    assert_eq!(decode_file(&path, &limits).unwrap(), image);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    /// Every outcome but a panic or a hang is right: most mutations are errors, some are pictures.
    #[test]
    fn mutated_files_never_panic(
        kind in 0usize..7,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut file = valid_files(&picture(40, 30)).swap_remove(kind).1;
        for (at, value) in edits {
            let at = at.index(file.len());
            file[at] = value;
        }
        if let Some(cut) = cut {
            file.truncate(cut.index(file.len()) + 1);
        }
        let limits = DecodeLimits { max_pixels: 1 << 22, ..DecodeLimits::default() };
        let start = Instant::now();
        if let Ok(image) = decode_bytes(&file, Path::new("x"), &limits) {
            prop_assert!(image.check().is_ok());
        }
        prop_assert!(start.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn garbage_never_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..400), kind in 0usize..8) {
        let starts: [&[u8]; 8] = [
            b"", b"\xFF\xD8\xFF", b"\x89PNG\r\n\x1a\n", b"RIFF\xff\0\0\0WEBPVP8 ", b"GIF89a",
            b"BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0", b"II\x2a\0\x08\0\0\0", b"MM\0\x2a\0\0\0\x08",
        ];
        bytes.splice(0..0, starts[kind].iter().copied());
        let limits = DecodeLimits { max_pixels: 1 << 22, ..DecodeLimits::default() };
        let _ = decode_bytes(&bytes, Path::new("x"), &limits);
        let _ = probe_bytes(&bytes, Path::new("x"));
    }
}

/// The library takes the black plane for one of full size: wrong pixels, or a panic, where it is not.
#[test]
fn a_black_plane_with_fewer_samples_is_refused_by_name() {
    use libjpeg_turbo_rs::{Encoder, PixelFormat, Subsampling};
    let pixels: Vec<u8> = (0..48 * 40 * 4).map(|i| ((i * 7919) >> 3) as u8).collect();
    let encoder = Encoder::new(&pixels, 48, 40, PixelFormat::Cmyk).subsampling(Subsampling::S444);
    let mut bytes = encoder.quality(90).encode().unwrap();
    let decode = |bytes: &[u8]| {
        decode_bytes(bytes, Path::new("k.jpg"), &DecodeLimits::default())
            .map_err(|e| format!("{e:?}"))
    };
    let whole = decode(&bytes).unwrap();
    assert_eq!((whole.width, whole.height), (48, 40));
    // The sampling of cyan in the head of the frame, as 4:2:2 and 4:2:0 have it.
    let frame = bytes.windows(2).position(|pair| pair == [0xFF, 0xC0]);
    let at = frame.unwrap() + 11;
    assert_eq!(bytes[at], 0x11);
    for sampling in [0x21, 0x22] {
        bytes[at] = sampling;
        let said = decode(&bytes).unwrap_err();
        assert!(said.contains("black plane"), "{said}");
    }
}
