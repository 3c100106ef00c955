"""Prints what the real TensorBoard reads in a folder: {tag: [[step, value], ...]} and the tags of texts."""

import json
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

events = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0, "tensors": 0})
events.Reload()
scalars = {
    tag: [[e.step, e.value] for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]
}
texts = {
    tag: events.Tensors(tag)[-1].tensor_proto.string_val[0].decode()
    for tag in events.Tags()["tensors"]
}
print(json.dumps({"scalars": scalars, "texts": texts}))
