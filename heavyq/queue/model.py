"""`Model`: the base of payload and result types. Snake case in Python, camel case on the wire.

Owns that one convention. Any other type that pydantic takes does as well.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class Model(BaseModel):
    """A pydantic model whose field `video_id` is `videoId` in JSON. It is made, and read, by either name."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)
