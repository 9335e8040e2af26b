// Uploads: see http.h.
#ifndef WEIGHTLIFT_HTTP_UPLOAD_H_
#define WEIGHTLIFT_HTTP_UPLOAD_H_

#include <memory>

#include "http/exchange.h"
#include "weightlift/http.h"

namespace weightlift::http {

std::shared_ptr<Upload> MakeUpload(std::shared_ptr<Session> session, Ask ask, UploadSpec spec);

}  // namespace weightlift::http

#endif  // WEIGHTLIFT_HTTP_UPLOAD_H_
