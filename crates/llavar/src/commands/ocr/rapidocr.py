"""Reads pictures with RapidOCR for `llavar ocr bench`: a path a line in, lines of text and seconds out."""
import json
import sys
import time

threads = int(sys.argv[1])
try:
    from rapidocr_onnxruntime import RapidOCR

    engine = RapidOCR(intra_op_num_threads=threads)
    name = "rapidocr_onnxruntime"

    def texts(path):
        found, _ = engine(path)
        return [line[1] for line in found or []]
except ImportError:
    from rapidocr import RapidOCR

    engine = RapidOCR(
        params={"EngineConfig.onnxruntime.intra_op_num_threads": threads, "Global.log_level": "critical"}
    )
    name = "rapidocr"

    def texts(path):
        return list(engine(path).txts or [])


print(json.dumps({"ready": name}), flush=True)
for path in sys.stdin:
    begun = time.perf_counter()
    found = texts(path.rstrip("\n"))
    print(json.dumps({"texts": found, "seconds": time.perf_counter() - begun}), flush=True)
